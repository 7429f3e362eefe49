from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import windows

from fleet.errors import CallerError
from fleet.telemetry import histogram
from fleet.telemetry.merge import merge, merge_all
from fleet.telemetry.window import DriftVerdict, Window

pytestmark = pytest.mark.agent


@given(windows(), windows())
def test_merge_does_not_depend_on_the_order_of_two(left, right):
    assert merge(left, right) == merge(right, left)


@given(windows(), windows(), windows())
def test_merge_does_not_depend_on_the_grouping_of_three(a, b, c):
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(st.lists(windows(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_nothing_that_was_counted_is_lost(listed, random):
    shuffled = list(listed)
    random.shuffle(shuffled)
    [merged] = merge_all(shuffled)
    assert merged.inferences == sum(w.inferences for w in listed)
    assert merged.errors == sum(w.errors for w in listed)
    assert merged.merged == sum(w.merged for w in listed)
    assert merged.started == min(w.started for w in listed)
    assert merged.ended == max(w.ended for w in listed)
    for key in range(10):
        assert merged.classes.get(key, 0) == sum(w.classes.get(key, 0) for w in listed)
    for name in {name for w in listed for name in w.features}:
        parts = [w.features[name] for w in listed if name in w.features]
        assert merged.features[name].count == sum(p.count for p in parts)
        assert merged.features[name].not_finite == sum(p.not_finite for p in parts)
        assert merged.features[name].total == sum(p.total for p in parts)
        columns = zip(*(p.counts for p in parts), strict=True)
        assert list(merged.features[name].counts) == [sum(column) for column in columns]


@given(windows(), windows())
def test_a_merged_window_shows_drift_that_either_part_showed(left, right):
    found = merge(left, right).drift
    parts = [w.drift for w in (left, right) if w.drift is not None]
    if not parts:
        assert found is None
        return
    assert found is not None
    assert found.changed == any(p.changed for p in parts)
    assert found.harmful == any(p.harmful for p in parts)
    assert found.score == max(p.score for p in parts)
    assert (found.score, found.feature) in {(p.score, p.feature) for p in parts}


def test_merging_windows_equals_one_window_over_all_values():
    rng = np.random.default_rng(1)
    values = rng.normal(size=1000)
    edges = histogram.edges_of(values)
    parts = [histogram.of(edges, part) for part in np.split(values, 10)]
    whole = histogram.of(edges, values)
    merged = parts[0]
    for part in parts[1:]:
        merged = histogram.merge(merged, part)
    assert merged.counts == whole.counts
    assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)
    assert merged.total == pytest.approx(whole.total)
    assert merged.total_squares == pytest.approx(whole.total_squares)


def test_windows_of_different_bytes_are_refused():
    one = _window()
    other = msgspec.structs.replace(one, sha256="cd" * 32)
    with pytest.raises(CallerError, match="expected windows of one artifact"):
        merge(one, other)
    assert len(merge_all([one, other, one])) == 2


def test_histograms_over_other_edges_are_refused():
    one = _window(features={"input:x:mean": histogram.empty((0.0,))})
    other = _window(features={"input:x:mean": histogram.empty((1.0,))})
    with pytest.raises(CallerError, match="same edges"):
        merge(one, other)


def test_the_merged_window_has_the_identity_of_the_earliest():
    early = _window(seq=9, started=1.0)
    late = _window(seq=2, started=5.0, drift=DriftVerdict(changed=True, score=2.0))
    merged = merge(late, early)
    assert (merged.seq, merged.started) == (9, 1.0)


def _window(**fields) -> Window:
    base = {
        "boot_epoch": "e", "seq": 1, "model": "digits", "release": "1", "sha256": "ab" * 32,
        "started": 0.0, "ended": 10.0, "inferences": 5,
    }  # fmt: skip
    return Window(**{**base, **fields})
