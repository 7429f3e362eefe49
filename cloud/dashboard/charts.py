"""Series for the charts, out of a device's telemetry windows.

A chart is ``{"series": [{label, colour, unit, limit}], "data": [[time, ...], [value, ...], ...]}``; a
missing value is null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cloud.services.views import WindowLine

Chart = dict[str, Any]
Value = Callable[[WindowLine], float | None]


def drift(windows: Sequence[WindowLine]) -> Chart:
    """The device's own detector: largest statistic over its threshold; above 1 something has changed."""
    return _chart(
        windows,
        (_series("drift score", "--chart-1"), lambda w: w.drift_score),
        (_series("threshold", "--bad", limit=True), lambda _: 1.0),
    )


def latency(windows: Sequence[WindowLine]) -> Chart:
    """Latency of answers, milliseconds, median and 95th percentile."""
    return _chart(
        windows,
        (_series("median", "--chart-1", unit="ms"), lambda w: w.latency_ms_p50),
        (_series("95th percentile", "--chart-2", unit="ms"), lambda w: w.latency_ms_p95),
    )


def rate(windows: Sequence[WindowLine]) -> Chart:
    """Answers per second, and errors per second."""
    return _chart(
        windows,
        (_series("answers", "--chart-1", unit="/s"), lambda w: _per_second(w, w.inferences)),
        (_series("errors", "--bad", unit="/s"), lambda w: _per_second(w, w.errors)),
    )


CHARTS: dict[str, Callable[[Sequence[WindowLine]], Chart]] = {
    "drift": drift,
    "latency": latency,
    "rate": rate,
}


def _series(label: str, colour: str, *, unit: str = "", limit: bool = False) -> dict[str, Any]:
    return {"label": label, "colour": colour, "unit": unit, "limit": limit}


def _chart(windows: Sequence[WindowLine], *lines: tuple[dict[str, Any], Value]) -> Chart:
    """A chart over windows, newest first, in which something was answered or went wrong."""
    shown = [w for w in reversed(windows) if w.inferences or w.errors]
    values = [[value(window) for window in shown] for _, value in lines]
    return {
        "series": [series for series, _ in lines],
        "data": [[window.ended for window in shown], *values],
    }


def _per_second(window: WindowLine, count: int) -> float | None:
    seconds = window.ended - window.started
    return round(count / seconds, 4) if seconds > 0 else None
