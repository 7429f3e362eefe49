"""How far answers lie off: figures add up over parts and are relative to the signal."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.toolchains.drivers.deviations import (
    MOST_DB,
    Deviation,
    decibels,
    histogram,
    relative_noise,
)


def test_deviations_add_up_and_are_relative_to_the_signal() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 1000))
    b = a + rng.normal(size=a.shape) * 0.1
    whole = Deviation.of(a, b)
    parts = Deviation()
    for one, other in zip(a, b, strict=True):
        parts.add(one, other)
    assert parts.noise == pytest.approx(whole.noise) == pytest.approx(0.01, rel=0.1)
    assert decibels(parts.noise) == pytest.approx(20, abs=0.5)
    assert parts.cosine == pytest.approx(0.995, abs=1e-3)
    assert parts.max_abs == pytest.approx(np.abs(a - b).max())
    assert decibels(Deviation.of(a, a).noise) == MOST_DB
    nothing = Deviation.of(np.zeros(3), np.full(3, np.nan))
    assert (nothing.noise, nothing.cosine) == (0.0, 1.0)


def test_the_noise_of_a_model_is_the_mean_over_its_outputs() -> None:
    expected = [[np.array([2.0, 0.0]), np.array([1.0])]] * 3
    found = [[np.array([2.0, 1.0]), np.array([1.0])]] * 3
    assert relative_noise(expected, found) == pytest.approx((0.25 + 0.0) / 2)


@pytest.mark.parametrize(
    "array", [np.zeros(0), np.full(4, 2.5), np.array([1.0, np.inf, np.nan, -3])]
)
def test_a_histogram_counts_what_is_finite(array: np.ndarray) -> None:
    shown = histogram(array)
    assert sum(shown["counts"]) == np.isfinite(array).sum()
    assert len(shown["counts"]) == 64
