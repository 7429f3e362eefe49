"""Built-in metrics against the plainest way to compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.errors import DataError, MetricError
from compiler.evaluate import metrics
from compiler.graph.folder import METRICS, MetricRule

SEEDS = st.integers(0, 10_000)


def value(name: str, output: np.ndarray, label: np.ndarray, **rule: int) -> float:
    chosen = MetricRule(name=name, budget=0.0, **rule)
    metric = metrics.get(chosen)
    halves = [
        metric.statistic(output[part], label[part], chosen)
        for part in (slice(None, 2), slice(2, None))
    ]
    return metric.reduce(np.concatenate(halves))


def case(seed: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(6, 40))
    return rng.normal(size=(n, classes)).round(1), rng.integers(0, classes, n)


def test_every_name_has_a_metric() -> None:
    for name in METRICS:
        metrics.get(MetricRule(name=name, budget=0))


@given(SEEDS)
def test_top1(seed: int) -> None:
    scores, label = case(seed)
    expected = sum(int(np.argmax(s) == y) for s, y in zip(scores, label, strict=True)) / len(label)
    assert value("top1", scores, label) == pytest.approx(expected)


@given(SEEDS, st.integers(1, 5))
def test_topk_counts_labels_among_the_k_largest(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(5.0), (9, 1)), axis=1)
    label = rng.integers(0, 5, 9)
    expected = np.mean([y in np.argsort(-s)[:k] for s, y in zip(scores, label, strict=True)])
    assert value("topk", scores, label, k=k) == pytest.approx(expected)


@given(SEEDS, st.sampled_from([1, 2]))
def test_auc_is_the_share_of_ordered_pairs(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 6, (20, columns)).astype(float)
    label = np.arange(20) % 2
    good, bad = score[label == 1, -1], score[label == 0, -1]
    wins = [1.0 if g > b else 0.5 if g == b else 0.0 for g in good for b in bad]
    assert value("auc", score, label) == pytest.approx(np.mean(wins))


def test_auc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(value("auc", np.ones((5, 1)), np.ones(5, int)))


@given(SEEDS)
def test_f1_of_many_classes_is_the_mean(seed: int) -> None:
    scores, label = case(seed)
    answer = scores.argmax(1)
    each = []
    for one in np.unique(label):
        hits = np.sum((answer == one) & (label == one))
        each.append(2 * hits / max(1, np.sum(answer == one) + np.sum(label == one)))
    assert value("f1", scores, label) == pytest.approx(np.mean(each))


def test_f1_of_two_classes_is_that_of_class_one() -> None:
    label = np.array([1, 1, 1, 0, 0, 0])
    score = np.array([0.9, 0.8, 0.1, 0.7, 0.2, 0.1])[:, None]
    assert value("f1", score, label) == pytest.approx(2 * 2 / (3 + 3))
    assert value("f1", np.hstack([1 - score, score]), label) == pytest.approx(2 / 3)


@given(SEEDS)
def test_mae_and_mse(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, label = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    assert value("mae", found, label) == pytest.approx(np.abs(found - label).mean())
    assert value("mse", found, label) == pytest.approx(np.square(found - label).mean())


@given(SEEDS, st.booleans())
def test_miou_ignores_255_and_finds_the_class_axis(seed: int, first: bool) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(4, 6, 7, 3))
    label = rng.integers(0, 3, (4, 6, 7))
    label[rng.random(label.shape) < 0.2] = 255
    answer, valid = scores.argmax(-1), label != 255
    each = [
        np.sum((answer == c) & (label == c)) / np.sum(((answer == c) | (label == c)) & valid)
        for c in np.unique(label[valid])
    ]
    output = scores.transpose(0, 3, 1, 2) if first else scores
    assert value("miou", output, label) == pytest.approx(np.mean(each))


def test_agreement_counts_the_same_class() -> None:
    output = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    assert value("agreement", output, np.array([1, 0, 1, 1])) == 0.75


@pytest.mark.parametrize(
    ("name", "output", "label", "message"),
    [
        ("top1", np.ones((4, 3)), np.array([0, 1, 2, 3]), "classes 0 to 2.*found 3"),
        ("auc", np.ones((4, 3)), np.zeros(4, int), "found 3"),
        ("auc", np.ones((4, 1)), np.array([0, 1, 2, 0]), "classes 0 to 1"),
        ("mae", np.ones((4, 3)), np.ones((4, 2)), "labels of the output's shape"),
        ("miou", np.ones((4, 5, 5, 3)), np.zeros((4, 6, 6), int), "class scores per pixel"),
        ("top1", np.ones((4, 3)), np.zeros((4, 2), int), "one row of scores per label"),
    ],
)
def test_what_does_not_fit_is_said(
    name: str, output: np.ndarray, label: np.ndarray, message: str
) -> None:
    with pytest.raises(MetricError, match=message):
        value(name, output, label)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "expected an array 'label'"),
        (np.zeros(3, int), "expected 4 labels"),
        (np.array(["a"] * 4), "whole numbers"),
        (np.zeros(4), "whole numbers"),
        (np.array([0, 1, -1, 0]), "found -1"),
    ],
)
def test_labels_are_held_before_anything_runs(label: np.ndarray | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metrics.check_labels("evaluation.npz", label, MetricRule(name="top1", budget=0), 4)
