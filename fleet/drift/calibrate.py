"""Thresholds of the drift detector, drawn from reference windows.

The statistic is Kolmogorov-Smirnov over the bins of the reference (`fleet.drift.detect.distance`).
For each window size the null distribution is simulated: a window and a fresh reference are both drawn
again and again from the reference sample. Drawing the reference again too matters: at a nominal .001,
windows of 128 against a reference of 100 samples fire on .001 of clean windows; with thresholds from
windows alone they fire on .062 (docs/explanation/drift.md has all figures).

Rules:
- `alpha` is for a whole window of `features_n` features: each feature gets its share (Bonferroni).
- Quantiles finer than the simulation resolves are extended by the Gaussian tail of the statistic,
  ``P(D > x) = 2 exp(-2 n x^2)`` (Smirnov 1948), anchored at a quantile that is resolved.
- A reference of one single value has no thresholds and is never judged.
- Samples count as independent. A stream whose neighbours are alike (video) fires more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.artifact.manifest import Feature
from fleet.telemetry import histogram

WINDOWS_N: Final = (16, 32, 64, 128, 256, 512, 1024)
"""Window sizes, in samples, for which thresholds are drawn."""

ALPHA: Final = 1e-6
"""Nominal rate of false alarms per window, over all features together: at a window a minute, .04 a month."""

_DRAWS: Final = 4000
_RESOLVED: Final = 0.01
_ROUNDING: Final = 1e-9


def feature(
    name: str,
    values: NDArray[np.floating],
    *,
    rng: np.random.Generator,
    windows_n: Sequence[int] = WINDOWS_N,
    alpha: float = ALPHA,
    features_n: int = 1,
) -> Feature:
    """A watched scalar with its reference and thresholds.

    Args:
        name: see `fleet.telemetry.features`.
        values: the feature on reference data, shape (samples,), from the artifact's own answers.
        rng: source of randomness; the same seed gives the same thresholds.
        windows_n: window sizes in samples.
        alpha: rate of false alarms per window over all features.
        features_n: how many features are watched together.

    Raises:
        CallerError: no finite value.
    """
    reference = histogram.of(histogram.edges_of(values), values)
    return Feature(
        name=name,
        reference=reference,
        thresholds=thresholds(
            reference, rng=rng, windows_n=windows_n, alpha=alpha / max(features_n, 1)
        ),
    )


def thresholds(
    reference: histogram.Histogram,
    *,
    rng: np.random.Generator,
    windows_n: Sequence[int],
    alpha: float,
) -> dict[int, float]:
    """Threshold of the distance per window size, for one feature at level `alpha`."""
    counts = np.array([*reference.counts, reference.not_finite], np.float64)
    if np.count_nonzero(counts) < 2:
        return {}
    samples = int(counts.sum())
    shares = counts / samples
    references = np.cumsum(rng.multinomial(samples, shares, size=_DRAWS), axis=1) / samples
    found = {}
    for n in sorted(windows_n):
        windows = np.cumsum(rng.multinomial(n, shares, size=_DRAWS), axis=1) / n
        distances = np.abs(windows - references).max(axis=1)
        resolved = max(alpha, _RESOLVED)
        tail = math.sqrt(math.log(2 / alpha) / math.log(2 / resolved))
        threshold = float(np.quantile(distances, 1 - resolved)) * tail
        found[n] = max(threshold, _ROUNDING)
    return found
