"""The selection split: what chooses is never what decides."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compiler.evaluate import split

DIGESTS = st.binary(max_size=8).map(lambda data: hashlib.sha256(data).hexdigest())


@given(st.integers(1, 5000), DIGESTS)
def test_the_parts_are_disjoint_and_cover_everything(samples: int, sha256: str) -> None:
    found = split.of(samples, sha256)
    selection = split.rows(found, split.SELECTION)
    held_out = split.rows(found, split.HELD_OUT)
    assert len(selection) == found.selection
    assert len(held_out) == found.held_out
    both = np.concatenate([selection, held_out])
    np.testing.assert_array_equal(np.sort(both), split.rows(found, split.EVERY))


@given(st.integers(1, 3000), DIGESTS)
def test_the_same_file_is_divided_the_same_way(samples: int, sha256: str) -> None:
    one, two = split.of(samples, sha256), split.of(samples, sha256)
    assert one == two
    np.testing.assert_array_equal(
        split.rows(one, split.SELECTION), split.rows(two, split.SELECTION)
    )


def test_another_file_is_divided_in_another_way() -> None:
    one, two = (split.of(1000, hashlib.sha256(data).hexdigest()) for data in (b"a", b"b"))
    assert split.rows(one, split.SELECTION).tolist() != split.rows(two, split.SELECTION).tolist()


def test_few_samples_and_indivisible_metrics_are_not_split() -> None:
    digest = hashlib.sha256(b"").hexdigest()
    assert split.of(split.FEWEST - 1, digest).selection == 0
    assert split.of(5000, digest, divisible=False).selection == 0
    assert split.of(10**6, digest).selection == split.MOST
