"""Releases: one model version, signed, with one variant per target.

Rules:
- A release takes the newest accepted artifact of each target. What is ``unproven`` or ``rejected`` is
  left out and named: no device gets bytes that no gate has passed.
- Creating a release again changes nothing; other variants need a new version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloud.audit import log
from cloud.context import Context
from cloud.errors import InputError
from cloud.services import trust
from fleet.registry.repositories import Models
from fleet.registry.tables import Artifact, Release, ReleaseVariant
from ota.metadata.release import target_path


class Choice(NamedTuple):
    """Which artifacts a release would hold, and which not and why."""

    taken: list[Artifact]
    left_out: dict[str, str]


class Created(NamedTuple):
    """A release and what was left out of it, by target."""

    release: Release
    left_out: dict[str, str]


def id_of(model: str, version: str) -> str:
    """The id of a release; empty when there is no version."""
    return version if "@" in version or not version else f"{model}@{version}"


def create(
    context: Context, *, model: str, version: str, security_floor: str = "", by: str
) -> Created:
    """Sign a release of a compiled model version.

    Args:
        context: the cloud.
        model: the model's name.
        version: one of its versions.
        security_floor: devices may never go back below this version; empty keeps the floor as it is.
        by: who releases.

    Raises:
        NotFoundError: no such version.
        InputError: nothing that may be released was compiled.
        ReleaseError: a floor above the version.
    """
    with context.unit() as unit:
        models = Models(unit.session)
        models.version(model, version)
        choice = choose(models.artifacts(model, version))
        known = models.find_release(id_of(model, version))
        if known is not None:
            _same_or_refuse(models, known, choice)
            return Created(known, choice.left_out)
        if not choice.taken:
            reasons = "; ".join(f"{t}: {why}" for t, why in choice.left_out.items())
            raise InputError(
                f"expected an accepted artifact of {model}@{version}, found none"
                f" ({reasons or 'nothing is compiled'}); run `outrider compile {model}@{version} --target …`"
            )
        trust.add_release(
            unit,
            context.settings,
            model=model,
            version=version,
            security_floor=security_floor,
            variants=choice.taken,
        )
        release = Release(
            id=id_of(model, version),
            model=model,
            version=version,
            security_floor=security_floor,
            created_at=unit.now,
            created_by=by,
        )
        models.add(release)
        for artifact in choice.taken:
            models.add(_variant(release, artifact))
        digests = {artifact.target: artifact.sha256 for artifact in choice.taken}
        log.record(unit, actor=by, action="release.create", subject=release.id, variants=digests)
        unit.publish("release", release=release.id)
    return Created(release, choice.left_out)


def choose(artifacts: Sequence[Artifact]) -> Choice:
    """The newest accepted artifact of each target; `artifacts` are newest first."""
    taken: dict[str, Artifact] = {}
    left_out: dict[str, str] = {}
    for artifact in artifacts:
        if artifact.target in taken or artifact.target in left_out:
            continue
        if artifact.status == "accepted":
            taken[artifact.target] = artifact
        else:
            reason = str(artifact.result.get("reason") or "")
            left_out[artifact.target] = f"{artifact.status}{': ' if reason else ''}{reason}"
    return Choice(sorted(taken.values(), key=lambda a: a.target), left_out)


def _same_or_refuse(models: Models, release: Release, choice: Choice) -> None:
    signed = {variant.target: variant.artifact for variant, _ in models.variants(release.id)}
    wanted = {artifact.target: artifact.sha256 for artifact in choice.taken}
    if signed != wanted:
        changed = sorted(t for t in signed | wanted if signed.get(t) != wanted.get(t))
        raise InputError(
            f"{release.id} is released already with other artifacts for {', '.join(changed)}; "
            "what is signed is not changed: push the model again as a new version"
        )


def _variant(release: Release, artifact: Artifact) -> ReleaseVariant:
    return ReleaseVariant(
        release=release.id,
        target=artifact.target,
        artifact=artifact.sha256,
        path=target_path(release.model, release.version, artifact.target),
    )
