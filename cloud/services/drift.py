"""The registry's own drift verdicts: the device's detector, over merged recent windows.

Rules:
- The same code (`fleet.drift.detect`) and the same references (the artifact's manifest) as on the device.
- A verdict is about the newest windows of one artifact on one device that hold enough samples together;
  an artifact without calibrated features, or one that the registry does not hold, has no verdict.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import msgspec

from cloud.context import Unit
from fleet.artifact import manifest as manifests
from fleet.artifact.manifest import Manifest
from fleet.drift import detect
from fleet.errors import CallerError, WireError
from fleet.registry.repositories import Models, Telemetry
from fleet.registry.tables import Artifact, DriftState, TelemetryWindow
from fleet.telemetry import merge, stored
from fleet.telemetry.window import DriftVerdict, Window

RECENT_SAMPLES = 256
RECENT_WINDOWS = 32


def update(unit: Unit, *, device: str, model: str, sha256: str) -> DriftState | None:
    """Judge a device's recent windows of one artifact; notes ``drift`` when the verdict turns."""
    artifact = Models(unit.session).find_artifact(sha256)
    telemetry = Telemetry(unit.session)
    rows = telemetry.windows(device, model=model, sha256=sha256, limit=RECENT_WINDOWS)
    recent = recent_windows(rows)
    if artifact is None or not recent:
        return None
    features = manifest_of(artifact).features
    if not features:
        return None
    merged = reduce(merge.merge, recent)
    verdict = detect.judge(features, merged.features)
    before = telemetry.drift(device, model)
    state = _state(device, merged, verdict, before=before, now=unit.now)
    if before is None or (before.changed, before.harmful) != (state.changed, state.harmful):
        unit.publish("drift", device=device, model=model, changed=state.changed)
    telemetry.set_drift(state)
    return state


def recent_windows(rows: Iterable[TelemetryWindow]) -> list[Window]:
    """The newest windows that hold `RECENT_SAMPLES` together; windows that cannot merge end the list.

    Args:
        rows: windows of one artifact, newest first; damaged ones are left out.
    """
    chosen: list[Window] = []
    samples = 0
    for row in rows:
        window = decoded(row)
        if window is None or window.inferences == 0:
            continue
        if chosen and not _fits(chosen[0], window):
            break
        chosen.append(window)
        samples += window.inferences
        if samples >= RECENT_SAMPLES:
            break
    return chosen


def decoded(row: TelemetryWindow) -> Window | None:
    """The window of a row; None when the row is damaged."""
    try:
        return stored.decode(row.window)
    except WireError:
        return None


def manifest_of(artifact: Artifact) -> Manifest:
    """The manifest of an artifact that the registry holds."""
    return manifests.decode(msgspec.json.encode(artifact.manifest))


def _fits(first: Window, other: Window) -> bool:
    try:
        merge.merge(first, other)
    except CallerError:
        return False
    return True


def _state(
    device: str, merged: Window, verdict: DriftVerdict, *, before: DriftState | None, now: float
) -> DriftState:
    same = before is not None and (before.sha256, before.changed, before.harmful) == (
        merged.sha256,
        verdict.changed,
        verdict.harmful,
    )
    return DriftState(
        device=device,
        model=merged.model,
        sha256=merged.sha256,
        changed=verdict.changed,
        harmful=verdict.harmful,
        score=verdict.score,
        feature=verdict.feature,
        samples=merged.inferences,
        windows=merged.merged,
        since=before.since if same and before is not None else now,
        updated_at=now,
    )
