"""What a release does on all devices together: their windows merged, by the code that devices merge with."""

from __future__ import annotations

from functools import reduce

from sqlmodel import Session

from cloud.services import drift
from cloud.services.views.base import View
from fleet.drift import detect
from fleet.errors import CallerError
from fleet.registry.repositories import Models, Telemetry
from fleet.registry.tables import Artifact
from fleet.telemetry import merge
from fleet.telemetry.histogram import quantile
from fleet.telemetry.window import Window

PERIOD_S = 3600.0


class Traffic(View, frozen=True):
    """One artifact over all devices since a time.

    Attributes:
        windows: how many of the devices' windows it stands for, merged ones counted as what they were.
        drift_score: the registry's detector on the merged windows; above 1 means changed.
        left_out: windows that could not be merged: damaged, or over another reference.
    """

    artifact: str
    target: str
    devices: int
    windows: int
    inferences: int
    errors: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    drift_changed: bool
    drift_score: float
    drift_feature: str
    classes: dict[str, int]
    left_out: int


def traffic(
    session: Session, release: str, *, now: float, period_s: float = PERIOD_S
) -> list[Traffic]:
    """What a release has done on all devices in the last `period_s`, per variant.

    Raises:
        NotFoundError: no such release.
    """
    models = Models(session)
    models.release(release)
    return [
        _of(session, artifact, since=now - period_s) for _, artifact in models.variants(release)
    ]


def _of(session: Session, artifact: Artifact, *, since: float) -> Traffic:
    rows = Telemetry(session).windows_of_artifacts([artifact.sha256], since=since)
    decoded = [window for row in rows if (window := drift.decoded(row)) is not None]
    whole = _merged(decoded)
    verdict = detect.judge(drift.manifest_of(artifact).features, whole.features if whole else {})
    used = whole.merged if whole else 0
    return Traffic(
        artifact=artifact.sha256,
        target=artifact.target,
        devices=len({row.device for row in rows}),
        windows=used,
        inferences=whole.inferences if whole else 0,
        errors=whole.errors if whole else 0,
        latency_ms_p50=quantile(whole.latency_ms, 0.5) if whole else None,
        latency_ms_p95=quantile(whole.latency_ms, 0.95) if whole else None,
        drift_changed=verdict.changed,
        drift_score=verdict.score,
        drift_feature=verdict.feature,
        classes={str(key): count for key, count in (whole.classes if whole else {}).items()},
        left_out=sum(row.merged for row in rows) - used,
    )


def _merged(windows: list[Window]) -> Window | None:
    def add(whole: Window, window: Window) -> Window:
        try:
            return merge.merge(whole, window)
        except CallerError:
            return whole

    return reduce(add, windows) if windows else None
