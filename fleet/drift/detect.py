"""The drift detector: a window's histograms against the reference's, with two verdicts kept apart.

- ``changed``: the distribution of a watched feature differs from the reference. Information.
- ``harmful``: the answers are likely worse: mean confidence fell, by more than chance explains and by
  enough to matter. Pages someone. Inputs that stay alike while their meaning changes cannot be seen
  without labels.

The same code judges a window on the device and merged windows in the cloud.

Rules:
- A window smaller than the smallest calibrated size is not judged.
- Between calibrated sizes the threshold follows ``sqrt(1/n + 1/reference)`` from the next smaller one;
  a window above the largest is judged as one of that size, because the samples of a long window are
  not independent and thresholds that go on shrinking would fire on nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from fleet.artifact.manifest import Feature
from fleet.telemetry.histogram import Histogram
from fleet.telemetry.window import DriftVerdict

HARM_DROP: Final = 0.05
"""Mean confidence must fall by this much: five points of the accuracy that it stands for."""

HARM_SIGMAS: Final = 3.7
"""... and by this many standard errors: one false alarm in 10,000 windows."""


def judge(features: Iterable[Feature], histograms: Mapping[str, Histogram]) -> DriftVerdict:
    """What a window's histograms say.

    Args:
        features: of the artifact's manifest.
        histograms: the window's, by feature name; one that is missing or over other edges is left out.
    """
    score, worst, harmful = 0.0, "", False
    for feature in features:
        window = histograms.get(feature.name)
        if window is None or window.edges != feature.reference.edges:
            continue
        threshold = threshold_for(feature, _samples(window))
        if threshold is None:
            continue
        ratio = distance(feature.reference, window) / threshold
        if ratio > score:
            score, worst = ratio, feature.name
        harmful = harmful or _confidence_fell(feature, window)
    return DriftVerdict(changed=score > 1, harmful=harmful, score=round(score, 4), feature=worst)


def distance(reference: Histogram, window: Histogram) -> float:
    """Kolmogorov-Smirnov distance over the bins, 0 to 1; values that are not finite form the last bin.

    Neither histogram may be empty.
    """
    ours, theirs = _cumulated(reference), _cumulated(window)
    return float(np.abs(ours - theirs).max())


def threshold_for(feature: Feature, samples: int) -> float | None:
    """The distance above which a window of `samples` has changed; None when that cannot be judged."""
    sizes = [n for n in feature.thresholds if n <= samples]
    if not sizes:
        return None
    size = max(sizes)
    if size == max(feature.thresholds):
        return feature.thresholds[size]
    reference = _samples(feature.reference)
    shrink = math.sqrt((1 / samples + 1 / reference) / (1 / size + 1 / reference))
    return feature.thresholds[size] * shrink


def _confidence_fell(feature: Feature, window: Histogram) -> bool:
    reference = feature.reference
    if not feature.name.endswith(":confidence") or not reference.count or not window.count:
        return False
    drop = reference.mean - window.mean
    # Confidence is skewed: a few doubtful samples lower the mean and raise the spread together, so the
    # window's own variance counts when it is the larger one.
    spread = max(_variance(window), _variance(reference)) / window.count
    error = math.sqrt(spread + _variance(reference) / reference.count)
    return drop >= HARM_DROP and drop >= HARM_SIGMAS * error


def _variance(histogram: Histogram) -> float:
    return max(histogram.total_squares / histogram.count - histogram.mean**2, 0.0)


def _samples(histogram: Histogram) -> int:
    return histogram.count + histogram.not_finite


def _cumulated(histogram: Histogram) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    counts = np.array([*histogram.counts, histogram.not_finite], np.float64)
    cumulated = np.cumsum(counts)
    return np.asarray(cumulated / cumulated[-1], np.float64)
