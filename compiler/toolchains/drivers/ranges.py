"""How far the values of activations reach: histograms in bounded memory, and ranges chosen from them.

Laid beside the drivers, which import it as ``ranges``; it needs numpy alone. In short:

    found = ranges.survey(passes, on_tensor=...)        # passes() yields (tensor, array), twice the same
    document = ranges.document(found, calibrators, levels=256, symmetric=False)  # ranges.json

or by hand: ``extent = Extent(); extent.add(array)`` over all data, then ``Histogram(extent.lo, extent.hi)``,
``histogram.add(array)`` over all data, then ``choose(histogram, "mse", levels=256, symmetric=False)``.

Rules:
- Every range holds zero, as every quantizer's grid must, and lies inside the data's own (with zero).
  A symmetric one is (-t, t). An activation that is always zero has the range (0, 0): there is nothing to scale.
- Exact zeros are counted apart: they cost no error, and the spike that a ReLU makes of them would
  drown everything else in a distribution.
- NaN, infinity, and what float32 cannot hold are refused: such a tensor gets no range.
- Decisions are made in float64, and depend on nothing but the data and its order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS: Final = 2048
SHOWN_BINS: Final = 64
PERCENTILE: Final = 99.99
_CHUNK: Final = 1 << 18
_MOST_VALUES: Final = 1 << 16
_LARGEST: Final = float(np.finfo(np.float32).max)
_GRID: Final = 192
_REFINED: Final = 6
_ENTROPY_STRIDE: Final = 8


class RangeError(ValueError):
    """Values that have no range."""


@dataclass
class Extent:
    """The smallest and largest value of a tensor, and zero."""

    lo: float = 0.0
    hi: float = 0.0

    def add(self, values: npt.ArrayLike) -> None:
        """Take values in; any shape, any real dtype.

        Raises:
            RangeError: one of them is NaN, infinite, or too large for float32.
        """
        array = np.asarray(values)
        if not array.size:
            return
        lo, hi = float(array.min()), float(array.max())
        if not (abs(lo) <= _LARGEST and abs(hi) <= _LARGEST):
            raise RangeError(f"expected finite float32 values, found a range of {lo} to {hi}")
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)


class Histogram:
    """Counts and sums of a tensor's values in bins of one width between `lo` and `hi`; zeros apart.

    Attributes:
        counts: int64 [bins], of values other than zero.
        sums: float64 [bins], of these values: a bin's mean is exact where a bin holds one value only.
        zeros: how many values were exactly zero.
    """

    def __init__(self, lo: float, hi: float, bins: int = BINS) -> None:
        """An empty one.

        Raises:
            RangeError: expected finite lo <= 0 <= hi.
        """
        if not (-_LARGEST <= lo <= 0.0 <= hi <= _LARGEST):
            raise RangeError(f"expected a range of float32 values around zero, found {lo} to {hi}")
        self.lo, self.hi = float(lo), float(hi)
        self.counts = np.zeros(bins, np.int64)
        self.sums = np.zeros(bins)
        self.zeros = 0

    @property
    def edges(self) -> Floats:
        """Borders of the bins, float64 [bins + 1]."""
        return np.linspace(self.lo, self.hi, len(self.counts) + 1)

    @property
    def total(self) -> int:
        """How many values it holds, with the zeros."""
        return int(self.counts.sum()) + self.zeros

    @property
    def degenerate(self) -> bool:
        """Whether there is nothing that a scale could be found from."""
        return not self.hi > self.lo

    def add(self, values: npt.ArrayLike) -> None:
        """Count values in; any shape. What lies outside counts in the outermost bins.

        Raises:
            RangeError: one of them is NaN or infinite.
        """
        flat = np.asarray(values).reshape(-1)
        bins = len(self.counts)
        for at in range(0, flat.size, _CHUNK):
            chunk = flat[at : at + _CHUNK].astype(np.float64)
            if not np.isfinite(chunk).all():
                raise RangeError("expected finite values, found NaN or infinity")
            chunk = chunk[chunk != 0.0]
            self.zeros += min(_CHUNK, flat.size - at) - chunk.size
            width = (self.hi - self.lo) / bins
            if chunk.size and not width:
                raise RangeError(f"expected zeros only, found {chunk[0]}")
            index = np.clip((chunk - self.lo) / (width or 1.0), 0, bins - 1).astype(np.intp)
            self.counts += np.bincount(index, minlength=bins)
            self.sums += np.bincount(index, weights=chunk, minlength=bins)

    def merge(self, other: Histogram) -> None:
        """Take another one in.

        Raises:
            RangeError: its bins are not the same.
        """
        mine = (self.lo, self.hi, len(self.counts))
        if mine != (other.lo, other.hi, len(other.counts)):
            raise RangeError(
                f"expected bins over {mine}, found {other.lo, other.hi, len(other.counts)}"
            )
        self.counts += other.counts
        self.sums += other.sums
        self.zeros += other.zeros

    def shown(self, bins: int = SHOWN_BINS) -> dict[str, Any]:
        """A coarse one for people, zeros included: ``lo``, ``hi``, ``counts``."""
        counts = self.counts.copy()
        if self.zeros:
            width = (self.hi - self.lo) / len(counts)
            counts[min(int(-self.lo / width), len(counts) - 1) if width else 0] += self.zeros
        coarse = counts.reshape(bins, -1).sum(axis=1)
        return {"lo": self.lo, "hi": self.hi, "counts": [int(count) for count in coarse]}


@dataclass
class Survey:
    """What was found: histograms by tensor, and why a tensor has none."""

    histograms: dict[str, Histogram] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


Passes = Callable[[], Iterable[tuple[str, npt.ArrayLike]]]


def survey(passes: Passes) -> Survey:
    """Histograms of all tensors by going over the data twice: how far it reaches, then how it is spread.

    Args:
        passes: gives all values as pairs of a tensor's name and an array, a sample or a part of one at a time;
            called twice, and must say the same both times.
    """
    found = Survey()
    extents: dict[str, Extent] = {}
    for name, values in passes():
        try:
            extents.setdefault(name, Extent()).add(values)
        except RangeError as error:
            found.refused.setdefault(name, str(error))
    found.histograms = {
        name: Histogram(extent.lo, extent.hi)
        for name, extent in extents.items()
        if name not in found.refused
    }
    for name, values in passes():
        if name in found.histograms:
            found.histograms[name].add(spread(values))
    return found


def spread(values: npt.ArrayLike, most: int = _MOST_VALUES) -> npt.NDArray[Any]:
    """At most so many values, evenly taken from an array with a step that meets every row and channel."""
    flat = np.asarray(values).reshape(-1)
    step = -(-flat.size // most)
    while step > 1 and math.gcd(step, flat.size) != 1:
        step += 1
    return flat[:: max(step, 1)]


def document(
    found: Survey, calibrators: Iterable[str], *, levels: int, symmetric: bool
) -> dict[str, Any]:
    """What ``ranges.json`` holds; `levels` and `symmetric` as for `choose`."""
    chosen = tuple(calibrators)
    return {
        "tensors": {
            name: {
                one: list(choose(histogram, one, levels=levels, symmetric=symmetric))
                for one in chosen
            }
            for name, histogram in sorted(found.histograms.items())
        },
        "histograms": {name: one.shown() for name, one in sorted(found.histograms.items())},
        "refused": dict(sorted(found.refused.items())),
    }


def choose(
    histogram: Histogram, calibrator: str, *, levels: int = 256, symmetric: bool = False
) -> tuple[float, float]:
    """The range that a calibrator chooses.

    Args:
        histogram: of all values.
        calibrator: minmax, mse, percentile or entropy.
        levels: of the grid, 256 or 65536; a symmetric one uses one less.
        symmetric: whether zero must be in the middle.
    """
    methods = {"minmax": _minmax, "mse": _mse, "percentile": _percentile, "entropy": _entropy}
    if calibrator not in methods:
        raise RangeError(f"expected a calibrator of {', '.join(methods)}, found {calibrator!r}")
    if histogram.degenerate or not histogram.counts.any():
        return 0.0, 0.0
    lo, hi = methods[calibrator](histogram, levels, symmetric)
    if not hi > lo:
        lo, hi = _minmax(histogram, levels, symmetric)
    reach = float(max(-lo, hi))
    return (-reach, reach) if symmetric else (float(lo), float(hi))


def expected_error(
    histogram: Histogram, lo: float, hi: float, *, levels: int = 256, symmetric: bool = False
) -> float:
    """Mean squared error of quantizing the histogram's values with this range.

    Each bin stands at its mean. Where the grid is finer than the bins, rounding costs step² / 12 instead.
    """
    counts, means = _points(histogram)
    if symmetric:
        top = (levels - 2) // 2
        step, bottom = max(-lo, hi) / top, -top
    else:
        step = (hi - lo) / (levels - 1)
        bottom = -round(-lo / step)
        top = levels - 1 + bottom
    if step < 2 * (histogram.hi - histogram.lo) / len(histogram.counts):
        outside = means - np.clip(means, bottom * step, top * step)
        squares = outside**2 + np.where(outside == 0.0, step**2 / 12, 0.0)
    else:
        squares = (means - np.clip(np.rint(means / step), bottom, top) * step) ** 2
    return float(counts @ squares) / max(histogram.total, 1)


def _points(histogram: Histogram) -> tuple[Floats, Floats]:
    filled = np.flatnonzero(histogram.counts)
    counts = histogram.counts[filled].astype(np.float64)
    return counts, histogram.sums[filled] / counts


def _minmax(histogram: Histogram, _levels: int, _symmetric: bool) -> tuple[float, float]:
    return histogram.lo, histogram.hi


def _mse(histogram: Histogram, levels: int, symmetric: bool) -> tuple[float, float]:
    """The range of the least expected squared error.

    First over a grid of all pairs of thresholds, with prefix sums of what is clipped and step² / 12 for what is
    rounded (Sung, Shin, Hwang 2015, "Resiliency of Deep Neural Networks under Quantization"), then the best of
    the neighbourhood, and no clipping at all, by the error of the very grid.
    """
    candidates = [(histogram.lo, histogram.hi)]
    for lo, hi in _coarse(histogram, levels, symmetric):
        candidates.append((lo, hi))
        for shift in np.linspace(-1.0, 1.0, _REFINED) / _GRID:
            candidates += [
                (min(max(lo + shift * histogram.lo, histogram.lo), 0.0), hi),
                (lo, max(min(hi + shift * histogram.hi, histogram.hi), 0.0)),
            ]
    usable = [(lo, hi) for lo, hi in candidates if hi > lo]
    return min(
        usable,
        key=lambda one: expected_error(histogram, *one, levels=levels, symmetric=symmetric),
    )


def _coarse(histogram: Histogram, levels: int, symmetric: bool) -> Iterator[tuple[float, float]]:
    """The best pair of a grid of thresholds, and the best for each lower threshold near it."""
    counts, means = _points(histogram)
    shares = np.arange(1, _GRID + 1) / _GRID
    if symmetric:
        reach = max(-histogram.lo, histogram.hi) * shares
        cost = _clipped(counts, means, reach) + _clipped(counts, -means, reach)
        best = int(np.argmin(cost + counts.sum() * (reach / (levels // 2 - 1)) ** 2 / 12))
        yield -float(min(reach[best], -histogram.lo)), float(min(reach[best], histogram.hi))
        return
    low = -histogram.lo * shares if histogram.lo else np.zeros(1)
    high = histogram.hi * shares if histogram.hi else np.zeros(1)
    steps = (low[:, None] + high[None, :]) / (levels - 1)
    cost = _clipped(counts, -means, low)[:, None] + _clipped(counts, means, high)[None, :]
    cost = cost + counts.sum() * steps**2 / 12
    row, column = np.unravel_index(int(np.argmin(cost)), cost.shape)
    for at in range(max(int(row) - 1, 0), min(int(row) + 2, len(low))):
        yield -float(low[at]), float(high[int(np.argmin(cost[at]))])
    yield -float(low[row]), float(high[column])


def _clipped(counts: Floats, values: Floats, thresholds: Floats) -> Floats:
    """Sum of squared excess over each of the thresholds, float64 [thresholds]."""
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    # From the far end, so that a small rest is not the difference of large sums.
    tails = [np.append(np.cumsum((counts * values**power)[::-1])[::-1], 0.0) for power in (0, 1, 2)]
    at = np.searchsorted(values, thresholds, side="right")
    zeroth, first, second = (tail[at] for tail in tails)
    clipped: Floats = np.maximum(second - 2 * thresholds * first + thresholds**2 * zeroth, 0.0)
    return clipped


def _percentile(histogram: Histogram, _levels: int, symmetric: bool) -> tuple[float, float]:
    """Leaves out the outermost 0.01 % of all values, half of them at each end where there are two."""
    cut = histogram.total * (1.0 - PERCENTILE / 100.0)
    filled = np.flatnonzero(histogram.counts)
    counts = histogram.counts[filled]
    low, high = histogram.edges[filled], histogram.edges[filled + 1]
    if symmetric:
        largest = max(-histogram.lo, histogram.hi)
        reach = _beyond(np.maximum(np.abs(low), np.abs(high)), counts, cut, largest)
        return -min(reach, -histogram.lo), min(reach, histogram.hi)
    if histogram.lo < 0.0 < histogram.hi:
        cut /= 2
    return -_beyond(-low, counts, cut, -histogram.lo), _beyond(high, counts, cut, histogram.hi)


def _beyond(borders: Floats, counts: npt.NDArray[np.int64], most: float, largest: float) -> float:
    """The smallest border that at most so many values lie beyond, between zero and the largest."""
    order = np.argsort(borders, kind="stable")[::-1]
    first = int(np.searchsorted(np.cumsum(counts[order]), most, side="right"))
    if first == 0:
        return largest
    return min(max(float(borders[order[first]]), 0.0), largest) if first < len(order) else 0.0


def _entropy(histogram: Histogram, levels: int, symmetric: bool) -> tuple[float, float]:
    """The threshold whose quantized distribution diverges least (Kullback, Leibler) from the data's.

    Migacz 2017, "8-bit Inference with TensorRT", with two changes. Values that are exactly zero stay out, as
    they cost nothing whatever the threshold is. And where the grid need not be symmetric, the window
    [max(lo, -t), min(hi, t)] gets all of its levels, so that one-sided activations are judged by the grid that
    they will have. Finer grids than the bins cannot be judged: they keep the whole range.
    """
    counts = histogram.counts.astype(np.float64)
    if symmetric:
        counts, levels = _folded(histogram), levels // 2
    lo = 0.0 if symmetric else histogram.lo
    hi = max(-histogram.lo, histogram.hi) if symmetric else histogram.hi
    width = (hi - lo) / len(counts)
    best, divergence = (histogram.lo, histogram.hi), math.inf
    reach = max(-lo, hi)
    for threshold in (
        np.arange(_ENTROPY_STRIDE, len(counts) + 1, _ENTROPY_STRIDE) * reach / len(counts)
    ):
        first = max(round((-threshold - lo) / width), 0)
        last = min(round((threshold - lo) / width), len(counts))
        if last - first < levels:
            continue
        found = _divergence(counts, first, last, levels)
        if found <= divergence:
            t = float(threshold)
            best, divergence = (max(histogram.lo, -t), min(histogram.hi, t)), found
    return best


def _folded(histogram: Histogram) -> Floats:
    """Counts of absolute values, in as many bins between zero and the largest."""
    counts, means = _points(histogram)
    bins = len(histogram.counts)
    index = np.abs(means) / max(-histogram.lo, histogram.hi) * bins
    return np.bincount(
        np.clip(index, 0, bins - 1).astype(np.intp), weights=counts, minlength=bins
    ).astype(np.float64)


def _divergence(counts: Floats, first: int, last: int, levels: int) -> float:
    """Of the window's distribution, with all outliers in its outermost bins, from its quantized one."""
    window = counts[first:last]
    reference = window.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    group = np.arange(len(window)) * levels // len(window)
    filled = window > 0
    members = np.bincount(group, weights=filled, minlength=levels)
    mass = np.bincount(group, weights=window, minlength=levels)
    quantized = np.where(filled, (mass / np.maximum(members, 1))[group], 0.0)
    if not quantized.any():
        return math.inf
    p = reference / reference.sum()
    q = np.maximum(quantized / quantized.sum(), 1e-9)
    at = p > 0
    return float(np.sum(p[at] * np.log(p[at] / q[at])))
