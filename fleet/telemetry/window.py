"""A window: what one version of one model did on one device in a stretch of time."""

from __future__ import annotations

import msgspec

from fleet.telemetry.histogram import Histogram


class DriftVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the device's own detector says of a window.

    Attributes:
        changed: the distribution differs from the reference (information).
        harmful: answers are likely worse (calibrated confidence); pages someone.
        score: largest statistic over its threshold; above 1 means changed.
        feature: the feature with that score.
    """

    changed: bool = False
    harmful: bool = False
    score: float = 0.0
    feature: str = ""


class Window(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts and histograms of one stretch of time.

    Attributes:
        boot_epoch, seq: identity, with the device; see `fleet.wire.messages`.
        started, ended: device time, seconds since the epoch.
        features: histogram per feature of inputs and outputs, over the artifact's reference edges.
        latency_ms: histogram over `LATENCY_EDGES_MS`.
        classes: how often each class was the answer; empty for models that have none.
        merged: how many windows were merged into this one (old windows merge, none is dropped).
    """

    boot_epoch: str
    seq: int
    model: str
    release: str
    sha256: str
    started: float
    ended: float
    inferences: int
    errors: int = 0
    features: dict[str, Histogram] = {}
    latency_ms: Histogram | None = None
    classes: dict[int, int] = {}
    drift: DriftVerdict | None = None
    merged: int = 1


LATENCY_EDGES_MS: tuple[float, ...] = tuple(round(0.05 * 10 ** (i / 8), 4) for i in range(40))
"""Eight bins a decade from 0.05 ms to 3.7 s."""
