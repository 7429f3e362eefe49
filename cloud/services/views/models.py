"""Models, their versions, artifacts and releases."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from cloud.services.views import work
from cloud.services.views.artifacts import ArtifactLine, artifacts, samples_needed
from cloud.services.views.base import View
from cloud.services.views.work import JobLine
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Models, Ways
from fleet.registry.tables import ModelVersion, Release


class WayLine(View, frozen=True):
    """A way of sending less than an artifact.

    Attributes:
        base: sha256 of what a device has to hold; empty: nothing is needed, or (chunks) nothing was measured.
        cost_bytes: what is sent in all.
    """

    kind: str
    base: str
    length_bytes: int
    cost_bytes: int


class Variant(View, frozen=True):
    """One artifact of a release.

    Attributes:
        status: ``accepted``, or ``proven`` by the device `proved_by`.
        fallback: it stands in for the target's first choice.
        samples_needed: with weak evidence, how many labelled samples would decide; None when not known.
        ways: what was built to send less than it, cheapest first.
    """

    target: str
    artifact: str
    runtime: str
    hardware_classes: list[str]
    size_bytes: int
    path: str
    status: str
    evidence: str
    samples_needed: int | None
    fallback: bool
    proved_by: str
    ways: list[WayLine]


class ReleaseLine(View, frozen=True):
    """A signed release."""

    id: str
    model: str
    version: str
    security_floor: str
    created_at: float
    created_by: str
    candidate_for: str
    variants: list[Variant]


class VersionLine(View, frozen=True):
    """A pushed version of a model."""

    name: str
    version: str
    sha256: str
    size_bytes: int
    created_at: float
    created_by: str
    description: dict[str, Any]
    artifacts: list[ArtifactLine]
    released: bool


class ModelLine(View, frozen=True):
    """A model in the list of models."""

    name: str
    versions: int
    newest: str
    task: str
    updated_at: float
    releases: list[str]


class ModelView(View, frozen=True):
    """The model page; versions newest first."""

    name: str
    versions: list[VersionLine]
    releases: list[ReleaseLine]
    jobs: list[JobLine]


def models(session: Session) -> list[ModelLine]:
    """All models by name."""
    repository = Models(session)
    released: dict[str, list[str]] = {}
    for release in repository.releases():
        released.setdefault(release.model, []).append(release.id)
    grouped: dict[str, list[ModelVersion]] = {}
    for row in repository.versions():
        grouped.setdefault(row.model, []).append(row)
    return [
        ModelLine(
            name=name,
            versions=len(rows),
            newest=rows[-1].version,
            task=str(rows[-1].description.get("task", "")),
            updated_at=rows[-1].created_at,
            releases=released.get(name, []),
        )
        for name, rows in sorted(grouped.items())
    ]


def model(session: Session, name: str) -> ModelView:
    """One model. Raises NotFoundError."""
    repository = Models(session)
    rows = repository.versions(name)
    if not rows:
        raise NotFoundError(
            f"expected the name of a pushed model, found {name!r}; see `outrider model list`"
        )
    return ModelView(
        name=name,
        versions=[_version(session, row) for row in reversed(rows)],
        releases=releases(session, name),
        jobs=work.jobs_of(session, name),
    )


def version(session: Session, name: str, number: str) -> VersionLine:
    """One version of a model. Raises NotFoundError."""
    return _version(session, Models(session).version(name, number))


def releases(session: Session, name: str | None = None) -> list[ReleaseLine]:
    """Releases, newest first."""
    repository = Models(session)
    return [_release(session, row) for row in repository.releases(name)]


def release(session: Session, release_id: str) -> ReleaseLine:
    """One release. Raises NotFoundError."""
    repository = Models(session)
    return _release(session, repository.release(release_id))


def _version(session: Session, row: ModelVersion) -> VersionLine:
    repository = Models(session)
    return VersionLine(
        name=row.model,
        version=row.version,
        sha256=row.folder_sha256,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        created_by=row.created_by,
        description=dict(row.description),
        artifacts=artifacts(session, row.model, row.version),
        released=repository.find_release(f"{row.model}@{row.version}") is not None,
    )


def _release(session: Session, row: Release) -> ReleaseLine:
    return ReleaseLine(
        id=row.id,
        model=row.model,
        version=row.version,
        security_floor=row.security_floor,
        created_at=row.created_at,
        created_by=row.created_by,
        candidate_for=row.candidate_for,
        variants=[
            Variant(
                target=variant.target,
                artifact=artifact.sha256,
                runtime=artifact.runtime,
                hardware_classes=list(artifact.hardware_classes),
                size_bytes=artifact.size_bytes,
                path=variant.path,
                status=artifact.standing,
                evidence=artifact.evidence,
                samples_needed=samples_needed(artifact),
                fallback=artifact.fallback,
                proved_by=artifact.proved_by,
                ways=_ways(session, artifact.sha256),
            )
            for variant, artifact in Models(session).variants(row.id)
        ],
    )


def _ways(session: Session, artifact: str) -> list[WayLine]:
    return [
        WayLine(
            kind=row.kind,
            base=row.base,
            length_bytes=row.length_bytes,
            cost_bytes=row.cost_bytes,
        )
        for row in Ways(session).to(artifact)
    ]
