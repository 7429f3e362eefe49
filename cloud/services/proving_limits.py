"""What a trial's figures must meet: the artifact's tolerance, and the latency gate of its target.

Rules:
- The target's gate is the limit that the compile report names for it (``latency_ms_max``), and what the class
  runs already: an artifact that is slower than a proven one of the same version is not worth its risk.
"""

from __future__ import annotations

from typing import Any, Final

from sqlmodel import Session

from cloud.services import drift, figures
from fleet.registry.repositories import Models
from fleet.registry.tables import Artifact
from ota.proving.judge import Limits

SLACK: Final = 1.05
"""By how much two self-tests of the same artifact may differ without saying anything."""


def of(session: Session, artifact: Artifact, hardware_class: str) -> Limits:
    """The limits for an artifact on devices of a class."""
    found = list(filter(None, (_target_gate(artifact), _best_rival(session, artifact, hardware_class))))  # fmt: skip
    limit, source = min(found, default=(None, ""))
    return Limits(
        tolerance=drift.manifest_of(artifact).tolerance,
        latency_ms_p50_max=limit,
        latency_source=source,
    )


def _target_gate(artifact: Artifact) -> tuple[float, str] | None:
    value: Any = artifact.result.get("latency_ms_max")
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        return None
    return float(value), f"the limit of {artifact.target}"


def _best_rival(
    session: Session, artifact: Artifact, hardware_class: str
) -> tuple[float, str] | None:
    rivals = [
        each
        for each in Models(session).artifacts(artifact.model, artifact.version)
        if each.releasable and each.sha256 != artifact.sha256
        and hardware_class in each.hardware_classes
    ]  # fmt: skip
    measured = [
        (found.latency_ms_p50 * SLACK, f"{found.recipe} in {found.runtime} on {found.devices} devices of the class")
        for found in figures.of_artifacts(session, rivals)
        if found.latency_ms_p50 is not None and found.hardware_class == hardware_class
    ]  # fmt: skip
    return min(measured, default=None)
