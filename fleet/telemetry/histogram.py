"""Histograms over fixed edges: 8 bytes a bin in memory, merged exactly by addition.

Rules:
- The edges are quantiles of the reference, so that each bin is equally likely when nothing drifts.
- Two histograms merge only when their edges are equal; merging is associative and commutative.
- NaN, infinite and absurd values (beyond `LIMIT`, whose squares overflow) are counted apart and enter
  no sum: every figure of a histogram is finite, so that it survives JSON.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.errors import CallerError

BINS = 32
LIMIT = 1e150


class Histogram(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Counts of a scalar over bins, with exact moments.

    Attributes:
        edges: inner edges, ascending; bin i holds edges[i-1] < x <= edges[i].
        counts: one more than `edges`.
        minimum: smallest value; None when there is no value, because JSON has no infinity.
        maximum: largest value, or None.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    count: int = 0
    not_finite: int = 0
    total: float = 0.0
    total_squares: float = 0.0
    minimum: float | None = None
    maximum: float | None = None

    @property
    def mean(self) -> float:
        """Mean of the finite values; NaN when there is none."""
        return self.total / self.count if self.count else math.nan


def edges_of(reference: NDArray[np.floating], bins: int = BINS) -> tuple[float, ...]:
    """Quantile edges of a reference sample, without repeats.

    Args:
        reference: shape (n,), finite values count, others are left out.
        bins: at most this many bins.
    """
    finite = np.asarray(reference, np.float64)
    finite = finite[_usable(finite)]
    if finite.size == 0:
        raise CallerError("expected a reference with at least one finite value, found none")
    quantiles = np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1])
    return tuple(float(q) for q in np.unique(quantiles))


def empty(edges: tuple[float, ...]) -> Histogram:
    """A histogram with no values."""
    return Histogram(edges=edges, counts=(0,) * (len(edges) + 1))


def of(edges: tuple[float, ...], values: NDArray[np.floating]) -> Histogram:
    """The histogram of `values`, shape (n,)."""
    array = np.asarray(values, np.float64).ravel()
    # Sorting first costs less than searching an edge for each value: numpy sorts with vector instructions.
    finite = np.sort(array[_usable(array)])
    below = np.searchsorted(finite, np.asarray(edges), side="right")
    counts = np.diff(below, prepend=0, append=finite.size)
    return Histogram(
        edges=edges,
        counts=tuple(counts.tolist()),
        count=int(finite.size),
        not_finite=int(array.size - finite.size),
        total=float(finite.sum()),
        total_squares=float(np.square(finite).sum()),
        minimum=float(finite[0]) if finite.size else None,
        maximum=float(finite[-1]) if finite.size else None,
    )


def merge(left: Histogram, right: Histogram) -> Histogram:
    """The histogram of both samples together.

    Raises:
        CallerError: the edges differ.
    """
    if left.edges != right.edges:
        raise CallerError(
            "expected two histograms over the same edges; they come from different references"
        )
    return Histogram(
        edges=left.edges,
        counts=tuple(a + b for a, b in zip(left.counts, right.counts, strict=True)),
        count=left.count + right.count,
        not_finite=left.not_finite + right.not_finite,
        total=left.total + right.total,
        total_squares=left.total_squares + right.total_squares,
        minimum=min((v for v in (left.minimum, right.minimum) if v is not None), default=None),
        maximum=max((v for v in (left.maximum, right.maximum) if v is not None), default=None),
    )


def quantile(histogram: Histogram | None, share: float) -> float | None:
    """Upper edge of the bin that holds the quantile; the last edge for the open bin; None when empty."""
    if histogram is None or histogram.count == 0 or not histogram.edges:
        return None
    wanted, seen = share * histogram.count, 0
    for index, count in enumerate(histogram.counts):
        seen += count
        if seen >= wanted:
            return histogram.edges[min(index, len(histogram.edges) - 1)]
    return histogram.edges[-1]


def _usable(array: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(array) <= LIMIT)
