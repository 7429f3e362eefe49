"""Merging windows: nothing that was counted is lost, whatever the order.

The device merges old windows when its buffer fills; the cloud merges windows of one device over time
and of many devices, by this same code.

Rules:
- Merging is commutative and associative (sums of floats: up to rounding), so that any tree of merges
  gives the same window.
- Windows merge only when they are of the same bytes: model, release and sha256 are equal.
- The merged window has the identity of the earliest one, so a device merges only windows that it has
  never sent: one that the cloud may hold already must not change its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce

from fleet.errors import CallerError
from fleet.telemetry import histogram
from fleet.telemetry.histogram import Histogram
from fleet.telemetry.window import DriftVerdict, Window


def merge(left: Window, right: Window) -> Window:
    """The window of both stretches of time together.

    Raises:
        CallerError: the windows are of different bytes, or over different references.
    """
    if _subject(left) != _subject(right):
        raise CallerError(
            f"expected windows of one artifact, found {_subject(left)} and {_subject(right)}; "
            "group them by model, release and sha256 first",
        )
    first = min(left, right, key=_identity)
    return Window(
        boot_epoch=first.boot_epoch,
        seq=first.seq,
        model=left.model,
        release=left.release,
        sha256=left.sha256,
        started=min(left.started, right.started),
        ended=max(left.ended, right.ended),
        inferences=left.inferences + right.inferences,
        errors=left.errors + right.errors,
        features=histograms(left.features, right.features),
        latency_ms=_optional(left.latency_ms, right.latency_ms),
        classes=_counts(left.classes, right.classes),
        drift=_worst(left.drift, right.drift),
        merged=left.merged + right.merged,
    )


def merge_all(windows: Iterable[Window]) -> list[Window]:
    """One window per artifact, ordered by its beginning."""
    groups: dict[tuple[str, str, str], list[Window]] = {}
    for window in windows:
        groups.setdefault(_subject(window), []).append(window)
    return sorted((reduce(merge, group) for group in groups.values()), key=_identity)


def histograms(
    left: Mapping[str, Histogram], right: Mapping[str, Histogram]
) -> dict[str, Histogram]:
    """Histograms of both sides by name; a name on one side only is kept as it is."""
    merged = dict(left)
    for name, ours in right.items():
        theirs = merged.get(name)
        merged[name] = ours if theirs is None else histogram.merge(theirs, ours)
    return dict(sorted(merged.items()))


def _optional(left: Histogram | None, right: Histogram | None) -> Histogram | None:
    if left is None or right is None:
        return left or right
    return histogram.merge(left, right)


def _counts(left: Mapping[int, int], right: Mapping[int, int]) -> dict[int, int]:
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}


def _worst(left: DriftVerdict | None, right: DriftVerdict | None) -> DriftVerdict | None:
    """The worse of two verdicts: a merged window must not hide that one part of it had drifted."""
    if left is None or right is None:
        return left or right
    worst = max(left, right, key=lambda verdict: (verdict.score, verdict.feature))
    return DriftVerdict(
        changed=left.changed or right.changed,
        harmful=left.harmful or right.harmful,
        score=worst.score,
        feature=worst.feature,
    )


def _subject(window: Window) -> tuple[str, str, str]:
    return (window.model, window.release, window.sha256)


def _identity(window: Window) -> tuple[float, str, int]:
    return (window.started, window.boot_epoch, window.seq)
