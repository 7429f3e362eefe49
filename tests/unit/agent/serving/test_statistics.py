"""What a worker counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import artifacts

from agent.serving.statistics import Binned, Statistics, Timing
from fleet.telemetry import histogram

pytestmark = pytest.mark.agent


@given(st.lists(st.lists(st.floats(), max_size=5), max_size=8), st.integers(0, 8))
def test_values_are_binned_as_if_at_once(groups: list[list[float]], cut: int) -> None:
    edges = (-1.0, 0.0, 2.5)
    binned = Binned(edges)
    taken = []
    for i, group in enumerate(groups):
        if i == cut:
            taken.append(binned.take())
        binned.add(np.array(group, np.float64))
    taken.append(binned.take())
    whole = histogram.of(edges, np.array([v for group in groups for v in group], np.float64))
    counts = np.sum([one.counts for one in taken], axis=0)
    assert tuple(counts.tolist()) == whole.counts
    assert sum(one.not_finite for one in taken) == whole.not_finite


def test_many_values_are_binned_on_the_way() -> None:
    binned = Binned((0.0,))
    for _ in range(5000):
        binned.add(np.array([1.0]))
    assert len(binned._values) < 1000
    assert binned.take().count == 5000


def test_features_take_a_bounded_share_of_time_and_counts_are_whole() -> None:
    statistics = Statistics(artifacts.classify().manifest)
    batch = artifacts.images(2)
    answers = {"probs": artifacts.probabilities(batch)}
    timing = Timing(0, 1_000_000, 3_000_000)
    for spent_ns in (0, 10**9):  # within the first quarter of a second; far beyond it
        statistics._watching_ns = spent_ns
        statistics.answered(2, timing)
        statistics.watch({"image": batch}, answers)
    figures = statistics.take()
    assert figures.inferences == 4
    assert sum(figures.classes.values()) == 4
    assert figures.features["input:image:mean"].count == 2
    assert figures.latency_ms.mean == pytest.approx(3.0)
    assert statistics.totals.queue_ns == 2_000_000
    assert statistics.totals.compute_ns == 4_000_000


def test_models_without_class_scores_count_none() -> None:
    manifest = artifacts.classify(
        outputs=[artifacts.TensorSpec(name="probs", dtype="int64", shape=[None, 4])], features=[]
    ).manifest
    statistics = Statistics(manifest)
    statistics.watch({}, {"probs": np.zeros((1, 4), np.int64)})
    assert statistics.take().classes == {}
