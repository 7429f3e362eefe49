"""Orders of axes are told by shapes where shapes can, by probes where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.toolchains.drivers import litert_layout as layout


@given(st.lists(st.integers(1, 4), min_size=0, max_size=6))
def test_every_order_turns_the_source_into_the_target(shape: list[int]) -> None:
    source = np.zeros(shape)
    for target in (tuple(shape), tuple(shape[:1] + shape[2:] + shape[1:2])):
        for order in layout.orders(shape, target):
            assert source.transpose(order).shape == target


def test_the_plain_order_comes_first_where_shapes_do_not_tell() -> None:
    assert layout.orders((1, 4, 4, 4), (1, 4, 4, 4)) == [(0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)]
    assert layout.orders((1, 3, 8, 9), (1, 8, 9, 3)) == [(0, 2, 3, 1)]
    assert layout.orders((2, 3), (3, 2)) == []
    assert layout.orders((), ()) == [()]


def test_an_answer_of_a_square_shape_is_told_by_its_values() -> None:
    rng = np.random.default_rng(0)
    expected = [rng.normal(size=(1, 4, 4, 4)) for _ in range(3)]
    found = [array.transpose(0, 2, 3, 1) for array in expected]
    order, difference, agreeing = layout.best_order(found, expected)
    assert order == (0, 3, 1, 2)
    assert difference == 0.0
    assert agreeing == [order]


def test_an_answer_that_is_the_same_in_all_orders_says_so() -> None:
    ones = [np.ones((1, 3, 3, 3))]
    _, _, agreeing = layout.best_order(ones, ones)
    assert len(agreeing) == 3
    assert not layout.varies(ones * 2)


@pytest.mark.parametrize(
    ("found", "expected", "distance"),
    [
        (np.float32([1.0, 2.0]), np.float32([1.0, 4.0]), 0.5),
        (np.float32([np.nan, 1.0]), np.float32([np.nan, 1.0]), 0.0),
        (np.float32([0.0, 1.0]), np.float32([np.nan, 1.0]), np.inf),
        (np.float32([np.inf]), np.float32([-np.inf]), np.inf),
        (np.int32([1, 2, 3, 5]), np.int64([1, 2, 3, 4]), 0.25),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.zeros((2, 1)), np.zeros(2), np.inf),
        (np.zeros(0), np.zeros(0), 0.0),
    ],
)
def test_distances(found: np.ndarray, expected: np.ndarray, distance: float) -> None:
    assert layout.distance(found, expected) == pytest.approx(distance)


def test_the_rounding_of_float16_is_no_difference() -> None:
    expected = np.float16([1.0, 0.5])
    assert layout.distance(np.float32([1.001, 0.5]), expected) == 0.0
    assert layout.distance(np.float32([1.1, 0.5]), expected) > 0.05


@given(st.integers(0, 1000))
def test_probes_stay_within_what_was_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sample = {
        "x": rng.normal(size=(2, 3)).astype(np.float32),
        "token": np.int64([[3, 7, 9]]),
        "flag": np.array([True, False, True]),
    }
    for bold, careful in layout.probe_feeds([sample], seed, many=6):
        assert (bold["x"] >= sample["x"].min()).all()
        assert (bold["x"] <= sample["x"].max()).all()
        assert set(bold["token"].ravel()) <= {3, 7, 9}
        assert np.array_equal(careful["token"], sample["token"])
        for name, array in sample.items():
            assert bold[name].dtype == array.dtype
            assert bold[name].shape == array.shape


def test_probes_turn_flags_off_and_on_and_move_what_never_moved() -> None:
    sample = {"flag": np.array([True, False]), "state": np.zeros((2, 8), np.float32)}
    bold = [forms[0] for forms in layout.probe_feeds([sample], 1, many=4)]
    assert any(not one["flag"].any() for one in bold)
    assert any(one["flag"].all() for one in bold)
    assert all(one["state"].std() > 0 for one in bold)


def test_the_same_seed_gives_the_same_probes() -> None:
    sample = {"x": np.arange(6, dtype=np.float32)}
    one, other = (list(layout.probe_feeds([sample], 5)) for _ in range(2))
    assert all(np.array_equal(a[0]["x"], b[0]["x"]) for a, b in zip(one, other, strict=True))
