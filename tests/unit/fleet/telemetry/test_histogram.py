from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.strategies import EDGES, histograms

from fleet.errors import CallerError
from fleet.telemetry import histogram
from fleet.telemetry.histogram import Histogram

pytestmark = pytest.mark.agent

samples = hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(width=64))
ordinary = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


@given(ordinary, samples)
def test_every_value_is_counted_once(reference, values):
    found = histogram.of(histogram.edges_of(reference), values)
    assert len(found.counts) == len(found.edges) + 1
    assert sum(found.counts) == found.count
    assert found.count + found.not_finite == values.size


@given(ordinary, ordinary)
def test_a_bin_holds_what_lies_between_its_edges(reference, values):
    edges = histogram.edges_of(reference)
    found = histogram.of(edges, values)
    for i, count in enumerate(found.counts):
        low = edges[i - 1] if i else -math.inf
        high = edges[i] if i < len(edges) else math.inf
        assert count == int(((values > low) & (values <= high)).sum())


@given(ordinary)
def test_edges_ascend_without_repeats(reference):
    edges = histogram.edges_of(reference)
    assert 1 <= len(edges) <= histogram.BINS - 1
    assert all(a < b for a, b in zip(edges, edges[1:]))  # noqa: B905, RUF007 - pairwise, 3.9 style reads shorter


@given(samples)
def test_every_figure_survives_json_and_messagepack(values):
    found = histogram.of((0.0, 1.0), values)
    assert math.isfinite(found.total)
    assert math.isfinite(found.total_squares)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Histogram) == found
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Histogram) == found


@given(histograms(EDGES["input:x:mean"]), histograms(EDGES["input:x:mean"]))
def test_merging_with_nothing_changes_nothing(one, other):
    empty = histogram.empty(one.edges)
    assert histogram.merge(one, empty) == one
    assert histogram.merge(one, other) == histogram.merge(other, one)


def test_other_edges_are_refused():
    with pytest.raises(CallerError, match="same edges"):
        histogram.merge(histogram.empty((0.0,)), histogram.empty((0.5,)))


def test_a_reference_without_values_is_refused():
    with pytest.raises(CallerError, match="at least one finite value"):
        histogram.edges_of(np.array([np.nan, np.inf]))


def test_bins_are_equally_likely_on_the_reference():
    reference = np.random.default_rng(3).gamma(2.0, size=6400)
    found = histogram.of(histogram.edges_of(reference), reference)
    assert set(found.counts) == {200}
