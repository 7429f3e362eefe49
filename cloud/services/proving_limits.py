"""What a trial's figures must meet: the artifact's tolerance, and the latency gate of its target.

Rules:
- Speed is judged against what the class itself was measured with: the fastest float file where devices reported
  it, and the artifacts of the same version that the class can have already. A compiling host's estimate is no limit.
- Memory is judged against what the target's profile says that a model may take.
"""

from __future__ import annotations

from typing import Any, Final

from sqlmodel import Session

from cloud.services import drift, figures
from compiler.errors import CatalogError
from compiler.targets import catalog
from fleet.registry.repositories import Models
from fleet.registry.tables import Artifact
from ota.proving.judge import Limits

SLACK: Final = 1.05
"""By how much two self-tests of the same artifact may differ without saying anything."""


def of(session: Session, artifact: Artifact, hardware_class: str) -> Limits:
    """The limits for an artifact on devices of a class."""
    found = list(filter(None, (_float_baseline(artifact), _best_rival(session, artifact, hardware_class))))  # fmt: skip
    limit, source = min(found, default=(None, ""))
    return Limits(
        tolerance=drift.manifest_of(artifact).tolerance,
        latency_ms_p50_max=limit,
        latency_source=source,
        peak_memory_mib_max=_memory_mib(artifact.target),
    )


def _float_baseline(artifact: Artifact) -> tuple[float, str] | None:
    chosen: dict[str, Any] = artifact.result.get("chosen") or {}
    baseline: dict[str, Any] = artifact.result.get("baseline_ms") or {}
    source = str(chosen.get("latency_source") or "")
    if not source.endswith(("device", "devices")) or "p50" not in baseline:
        return None
    return float(baseline["p50"]), f"the fastest float file on {source}"


def _memory_mib(target: str) -> float | None:
    try:
        return float(catalog.get(target).memory_mib)
    except CatalogError:  # a target of the host that compiled it, which this one does not know
        return None


def _best_rival(
    session: Session, artifact: Artifact, hardware_class: str
) -> tuple[float, str] | None:
    rivals = [
        each
        for each in Models(session).artifacts(artifact.model, artifact.version)
        if each.releasable and each.sha256 not in {artifact.sha256, artifact.built_from}
        and hardware_class in each.hardware_classes
    ]  # fmt: skip
    measured = [
        (found.latency_ms_p50 * SLACK, f"{found.recipe} in {found.runtime} on {found.devices} devices of the class")
        for found in figures.of_artifacts(session, rivals)
        if found.latency_ms_p50 is not None and found.hardware_class == hardware_class
    ]  # fmt: skip
    return min(measured, default=None)
