"""Artifacts with everything that judges them: the compiling host's figures, trials, and what devices measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session

from cloud.services import figures
from cloud.services.figures import Figure
from cloud.services.views.base import View
from fleet.registry.repositories import Devices, Models, Proving
from fleet.registry.tables import Artifact, Trial


class TrialLine(View, frozen=True):
    """A trial of an artifact on a proving device.

    Attributes:
        gates: every limit with what was found; `passed` is null where there was no limit.
    """

    id: str
    artifact: str
    model: str
    version: str
    target: str
    device: str
    hardware_class: str
    state: str
    reason: str
    figures: dict[str, float | None]
    facts: dict[str, str]
    gates: list[dict[str, Any]]
    created_at: float
    created_by: str
    started_at: float | None
    finished_at: float | None


class ArtifactLine(View, frozen=True):
    """A compiled artifact with the figures that judge it.

    Attributes:
        status: ``accepted``, ``unproven`` or ``rejected`` by the compiling host; ``proven`` by `proved_by`.
        samples_needed: with weak evidence, how many labelled samples would decide; None when not known.
        fallback: it stands in for the target's first choice.
        twin, built_by: of an engine that a builder made: what its twins have in common, and who built it.
        metric: name, value and the fp32 model's value.
        trial: the newest trial on a proving device; None when there was none.
        measured: what devices measured, by hardware class; it replaces the compiling host's estimates.
        result: the target's entry of the compile report: parity, latency, candidates.
    """

    sha256: str
    model: str
    version: str
    target: str
    runtime: str
    runtime_version: str
    hardware_classes: list[str]
    recipe: str
    status: str
    evidence: str
    samples_needed: int | None
    fallback: bool
    proved_by: str
    proved_at: float | None
    twin: dict[str, str]
    built_by: str
    size_bytes: int
    metric: dict[str, Any]
    latency_ms_p50: float
    latency_ms_p95: float
    peak_memory_mib: float
    features: list[str]
    trial: TrialLine | None
    measured: list[Figure]
    result: dict[str, Any]
    created_at: float


def artifacts(
    session: Session, name: str | None = None, number: str | None = None
) -> list[ArtifactLine]:
    """Artifacts, newest first."""
    return artifact_lines(session, Models(session).artifacts(name, number))


def artifact_lines(session: Session, rows: Sequence[Artifact]) -> list[ArtifactLine]:
    """Artifacts as they are shown, in the same order."""
    trials = Proving(session).newest_of([row.sha256 for row in rows])
    measured = figures.of_artifacts(session, rows)
    return [_artifact(row, trials.get(row.sha256), measured) for row in rows]


def trials(session: Session, name: str | None = None) -> list[TrialLine]:
    """Trials, newest first."""
    return [_trial(row) for row in Proving(session).trials(model=name)]


def trial(session: Session, trial_id: str) -> TrialLine:
    """One trial. Raises NotFoundError."""
    return _trial(Proving(session).trial(trial_id))


def provers(session: Session) -> dict[str, list[str]]:
    """Proving devices by the hardware class that they were named for."""
    found: dict[str, list[str]] = {}
    for device in Devices(session).all():
        if device.proving_class:
            found.setdefault(device.proving_class, []).append(device.id)
    return found


def samples_needed(row: Artifact) -> int | None:
    """How many samples would decide, as the compile report says of this very artifact."""
    chosen = row.result.get("fallback" if row.fallback else "chosen") or {}
    value = (chosen.get("evidence") or {}).get("samples_needed")
    return value if isinstance(value, int) else None


def _artifact(row: Artifact, newest: Trial | None, measured: Sequence[Figure]) -> ArtifactLine:
    manifest = row.manifest
    payload = figures.payload_of(row)
    return ArtifactLine(
        sha256=row.sha256,
        model=row.model,
        version=row.version,
        target=row.target,
        runtime=row.runtime,
        runtime_version=row.runtime_version,
        hardware_classes=list(row.hardware_classes),
        recipe=row.recipe,
        status=row.standing,
        evidence=row.evidence,
        samples_needed=samples_needed(row),
        fallback=row.fallback,
        proved_by=row.proved_by,
        proved_at=row.proved_at,
        twin=dict(row.twin),
        built_by=row.built_by,
        size_bytes=row.size_bytes,
        metric=dict(manifest.get("metric", {})),
        latency_ms_p50=float(manifest.get("latency_ms_p50", 0.0)),
        latency_ms_p95=float(manifest.get("latency_ms_p95", 0.0)),
        peak_memory_mib=float(manifest.get("peak_memory_mib", 0.0)),
        features=[str(f.get("name", "")) for f in manifest.get("features", [])],
        trial=_trial(newest) if newest else None,
        measured=[
            each
            for each in measured
            if each.payload_sha256 == payload and each.hardware_class in row.hardware_classes
        ],
        result=dict(row.result),
        created_at=row.created_at,
    )


def _trial(row: Trial) -> TrialLine:
    return TrialLine(
        id=row.id,
        artifact=row.artifact,
        model=row.model,
        version=row.version,
        target=row.target,
        device=row.device,
        hardware_class=row.hardware_class,
        state=row.state,
        reason=row.reason,
        figures=dict(row.figures),
        facts=dict(row.facts),
        gates=list(row.gates),
        created_at=row.created_at,
        created_by=row.created_by,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
