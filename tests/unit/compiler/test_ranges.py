"""Ranges of activations: merged histograms are whole ones, and each calibrator keeps its word."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from compiler.toolchains.drivers.ranges import (
    BINS,
    Extent,
    Histogram,
    RangeError,
    choose,
    document,
    expected_error,
    spread,
    survey,
)

CALIBRATORS = ("minmax", "mse", "percentile", "entropy")
GRIDS = tuple(itertools.product((256, 65536), (False, True)))

values = st.one_of(
    nps.arrays(
        np.float32,
        st.integers(1, 200),
        elements=st.floats(-(2.0**127), 2.0**127, width=32),
    ),
    nps.arrays(np.float32, st.integers(1, 200), elements=st.floats(-8, 8, width=32)),
    nps.arrays(
        np.float32, st.integers(1, 200), elements=st.sampled_from([0.0, 6.0, -1.0, 2.0**-99])
    ),
)


def histogram_of(*parts: np.ndarray) -> Histogram:
    extent = Extent()
    for part in parts:
        extent.add(part)
    found = Histogram(extent.lo, extent.hi)
    for part in parts:
        found.add(part)
    return found


def clumped(rng: np.random.Generator, spikes: int = 40_000) -> np.ndarray:
    """What a ReLU gives: many zeros, a bulk, and a few values far away."""
    bulk = np.abs(rng.normal(size=60_000))
    return np.concatenate([np.zeros(spikes), bulk, [40.0, 43.0]]).astype(np.float32)


@given(values, values)
def test_merged_histograms_are_the_histogram_of_the_whole(a: np.ndarray, b: np.ndarray) -> None:
    whole = histogram_of(np.concatenate([a, b]))
    parts = [Histogram(whole.lo, whole.hi) for _ in range(2)]
    for part, data in zip(parts, (a, b), strict=True):
        part.add(data)
    parts[0].merge(parts[1])
    assert (parts[0].counts == whole.counts).all()
    assert np.allclose(parts[0].sums, whole.sums, rtol=1e-9, atol=0)
    assert parts[0].zeros == whole.zeros
    assert whole.total == a.size + b.size


def test_histograms_with_other_bins_are_not_merged() -> None:
    with pytest.raises(RangeError, match="expected bins over"):
        Histogram(0.0, 1.0).merge(Histogram(0.0, 2.0))


@settings(max_examples=60)
@given(values)
def test_every_range_holds_zero_and_lies_inside_the_data(data: np.ndarray) -> None:
    histogram = histogram_of(data)
    largest = max(-histogram.lo, histogram.hi)
    for calibrator, (levels, symmetric) in itertools.product(CALIBRATORS, GRIDS):
        lo, hi = choose(histogram, calibrator, levels=levels, symmetric=symmetric)
        assert math.isfinite(lo)
        assert math.isfinite(hi)
        if symmetric:
            assert -lo == hi <= largest
        else:
            assert histogram.lo <= lo <= 0 <= hi <= histogram.hi
        assert (hi > lo) == bool(data.any())


@settings(max_examples=60)
@given(values)
def test_mse_never_errs_more_than_the_whole_range(data: np.ndarray) -> None:
    histogram = histogram_of(data)
    if histogram.degenerate:
        return
    for levels, symmetric in GRIDS:
        chosen, whole = (
            expected_error(
                histogram,
                *choose(histogram, one, levels=levels, symmetric=symmetric),
                levels=levels,
                symmetric=symmetric,
            )
            for one in ("mse", "minmax")
        )
        assert chosen <= whole


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_expected_error_is_that_of_quantizing(symmetric: bool) -> None:
    data = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    histogram = histogram_of(data)
    for reach in (1.0, 2.5, 4.0):
        if symmetric:
            step, bottom, top = reach / 127, -127, 127
        else:
            step = 2 * reach / 255
            bottom = -round(reach / step)
            top = bottom + 255
        error = (data - np.clip(np.rint(data / step), bottom, top) * step) ** 2
        guess = expected_error(histogram, -reach, reach, levels=256, symmetric=symmetric)
        assert guess == pytest.approx(error.mean(), rel=0.05)


def test_mse_finds_the_threshold_that_trying_all_of_them_finds() -> None:
    data = np.random.default_rng(5).laplace(size=100_000).astype(np.float32)
    histogram = histogram_of(data)
    tried = min(
        expected_error(histogram, -reach, reach, levels=256, symmetric=True)
        for reach in np.linspace(0.05, 1, 400) * max(-histogram.lo, histogram.hi)
    )
    lo, hi = choose(histogram, "mse", levels=256, symmetric=True)
    found = expected_error(histogram, lo, hi, levels=256, symmetric=True)
    assert found <= tried * 1.01


def test_pixels_that_lie_on_the_grid_keep_it() -> None:
    """Every value of 0 to 255 is exact with the whole range, so no clipping can pay."""
    data = np.random.default_rng(1).integers(0, 256, 100_000).astype(np.float32)
    assert choose(histogram_of(data), "mse") == (0.0, 255.0)
    assert expected_error(histogram_of(data), 0.0, 255.0) < 1e-9


def test_percentile_leaves_out_the_share_that_it_says() -> None:
    data = np.random.default_rng(2).normal(size=1_000_000).astype(np.float32)
    for symmetric in (False, True):
        lo, hi = choose(histogram_of(data), "percentile", symmetric=symmetric)
        outside = ((data < lo) | (data > hi)).mean()
        assert 0.5e-4 < outside <= 1e-4
    lo, hi = choose(histogram_of(np.abs(data)), "percentile")
    assert lo == 0
    assert 0.5e-4 < (np.abs(data) > hi).mean() <= 1e-4


def test_outliers_are_clipped_whatever_number_of_zeros_stands_beside_them() -> None:
    rng = np.random.default_rng(7)
    for calibrator in ("percentile", "entropy"):
        for spikes in (0, 400_000):
            _, hi = choose(histogram_of(clumped(rng, spikes)), calibrator)
            assert 2.0 < hi < 12.0, (calibrator, spikes)


def test_entropy_does_not_see_zeros() -> None:
    rng = np.random.default_rng(7)
    bulk = clumped(rng, 0)
    with_zeros = np.concatenate([bulk, np.zeros(500_000, np.float32)])
    for levels, symmetric in GRIDS:
        found, expected = (
            choose(histogram_of(data), "entropy", levels=levels, symmetric=symmetric)
            for data in (with_zeros, bulk)
        )
        assert found == expected


def test_finer_grids_than_the_bins_keep_the_range_under_entropy() -> None:
    histogram = histogram_of(clumped(np.random.default_rng(7)))
    assert choose(histogram, "entropy", levels=65536) == (histogram.lo, histogram.hi)


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1.0, 1e20, 1e37])
def test_ranges_scale_with_the_data(scale: float) -> None:
    data = np.random.default_rng(9).normal(size=20_000)
    for calibrator in CALIBRATORS:
        base = choose(histogram_of(data), calibrator)
        scaled = choose(histogram_of(data * scale), calibrator)
        assert np.allclose(np.array(scaled) / scale, base, rtol=0.02)


@pytest.mark.parametrize("data", [np.zeros(5), np.zeros(0), np.array([])])
def test_what_is_always_zero_has_no_range(data: np.ndarray) -> None:
    for calibrator in CALIBRATORS:
        assert choose(histogram_of(data), calibrator) == (0.0, 0.0)


@pytest.mark.parametrize(("constant", "expected"), [(3.0, (0.0, 3.0)), (-2.0, (-2.0, 0.0))])
@pytest.mark.parametrize("count", [1, 1000])
def test_a_constant_reaches_from_zero_to_itself(
    constant: float, expected: tuple[float, float], count: int
) -> None:
    for calibrator in CALIBRATORS:
        assert choose(histogram_of(np.full(count, constant)), calibrator) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_has_no_range_is_refused(bad: float) -> None:
    with pytest.raises(RangeError, match="expected finite"):
        Extent().add(np.array([1.0, bad]))
    found = survey(lambda: [("good", np.array([1.0])), ("bad", np.array([1.0, bad]))])
    assert set(found.histograms) == {"good"}
    assert "expected finite" in found.refused["bad"]
    with pytest.raises(RangeError, match="expected finite"):
        Histogram(0.0, 1.0).add(np.array([np.nan]))
    with pytest.raises(RangeError, match="around zero"):
        Histogram(1.0, 2.0)
    with pytest.raises(RangeError, match="expected a calibrator of minmax"):
        choose(Histogram(0.0, 1.0), "median")


def test_a_document_says_the_same_whatever_parts_the_data_came_in() -> None:
    data = clumped(np.random.default_rng(4), 5000)[-60_000:]
    whole = document(survey(lambda: [("t", data)]), CALIBRATORS, levels=256, symmetric=False)
    parts = document(
        survey(lambda: [("t", part) for part in np.array_split(data, 7)]),
        CALIBRATORS,
        levels=256,
        symmetric=False,
    )
    assert whole["histograms"] == parts["histograms"]
    assert sum(whole["histograms"]["t"]["counts"]) == data.size
    for calibrator in CALIBRATORS:
        assert np.allclose(
            whole["tensors"]["t"][calibrator], parts["tensors"]["t"][calibrator], rtol=1e-6
        )


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 40), st.integers(2, 32))
def test_what_is_taken_of_a_large_array_meets_every_channel(
    batch: int, rows: int, channels: int, most: int
) -> None:
    array = np.broadcast_to(np.arange(channels), (batch, rows, channels))
    taken = spread(array, most * channels)
    assert taken.size <= most * channels
    assert array.size <= most * channels or len(set(taken.tolist())) > channels / 2
    assert BINS % 64 == 0
