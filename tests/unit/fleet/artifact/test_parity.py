"""The figures that a device's self-test and the compiler's gate share."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.artifact import parity
from fleet.artifact.manifest import Tolerance
from fleet.errors import CallerError

pytestmark = pytest.mark.agent
VALUES = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20)


@given(VALUES)
def test_equal_answers_are_equal(values: list[float]) -> None:
    x = {"y": np.array([values], np.float32)}
    found = parity.compare(x, x)
    assert found.cosine_min == pytest.approx(1.0)
    assert found.max_abs == 0
    assert found.outputs["y"].snr_db == 200


@given(VALUES, st.floats(0.01, 10))
def test_figures_are_what_they_say(values: list[float], shift: float) -> None:
    a = np.array(values, np.float64)
    b = a + shift
    found = parity.compare({"y": a}, {"y": b})
    assert found.max_abs == pytest.approx(shift, rel=1e-6)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    if norms > 1e-6:
        assert found.cosine_min == pytest.approx(float(a @ b) / norms, abs=1e-6)


def test_the_worst_output_counts() -> None:
    expected = {"a": np.ones((2, 3)), "b": np.array([[1.0, 0.0]])}
    found = parity.compare(expected, {"a": np.ones((2, 3)), "b": np.array([[0.0, 2.0]])})
    assert found.cosine_min == 0
    assert found.max_abs == 2
    assert found.outputs["a"].cosine == pytest.approx(1)


def test_answers_that_are_not_numbers_fail_every_tolerance() -> None:
    for bad in (math.nan, math.inf):
        found = parity.compare({"y": np.ones(3)}, {"y": np.array([1.0, bad, 1.0])})
        assert not parity.passes(found, Tolerance(cosine_min=-0.99, max_abs=1e300))


def test_tolerance_holds_both_figures() -> None:
    found = parity.compare({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, 2.1])})
    assert parity.passes(found, Tolerance(cosine_min=0.99, max_abs=0.2))
    assert not parity.passes(found, Tolerance(cosine_min=0.99, max_abs=0.05))
    assert not parity.passes(found, Tolerance(cosine_min=0.99999, max_abs=0.2))


def test_missing_and_misshapen_outputs_are_named() -> None:
    with pytest.raises(CallerError, match=r"output 'y': expected shape \[2\], found none"):
        parity.compare({"y": np.ones(2)}, {})
    with pytest.raises(CallerError, match=r"expected shape \[2\], found \[3\]"):
        parity.compare({"y": np.ones(2)}, {"y": np.ones(3)})


def test_integers_and_zeros_compare() -> None:
    zero = {"y": np.zeros(3, np.int64)}
    assert parity.compare(zero, zero).cosine_min == 1
    assert parity.compare(zero, {"y": np.ones(3, np.int64)}).cosine_min == 0
