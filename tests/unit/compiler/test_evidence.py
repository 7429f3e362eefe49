"""Evidence: what may be said of a loss from so many samples."""

from __future__ import annotations

import numpy as np
import pytest

from compiler.evaluate import evidence, metrics
from compiler.evaluate.evidence import Evidence
from compiler.graph.folder import MetricRule


def judged(name: str, candidate: np.ndarray, reference: np.ndarray, budget: float) -> Evidence:
    metric = metrics.get(MetricRule(name=name, budget=budget))
    return evidence.paired(name, metric, candidate, reference, budget=budget)


def right(n: int, wrong: list[int]) -> np.ndarray:
    found = np.ones(n)
    found[wrong] = 0
    return found


def test_many_samples_that_agree_are_strong_evidence() -> None:
    reference = right(2000, list(range(200)))
    candidate = right(2000, [*range(200), 500])
    found = judged("top1", candidate, reference, 0.01)
    assert found.loss == pytest.approx(1 / 2000)
    assert found.strength == "strong"
    assert found.samples == 2000


def test_few_samples_are_weak_evidence_even_when_they_agree() -> None:
    same = right(30, [3])
    found = judged("top1", same, same, 0.01)
    assert found.loss == 0
    assert found.strength == "weak"


def test_the_bound_rises_with_disagreement_not_with_errors() -> None:
    reference = right(1000, list(range(300)))
    calm = judged("top1", reference, reference, 0.01)
    swapped = right(1000, [*range(20, 300), *range(500, 520)])
    restless = judged("top1", swapped, reference, 0.01)
    assert calm.loss == restless.loss == 0
    assert calm.loss_upper is not None
    assert restless.loss_upper is not None
    assert restless.loss_upper > 2 * calm.loss_upper


def test_the_bound_covers_the_true_loss_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    worse, better, n = 0.06, 0.03, 400
    covered = 0
    for _ in range(600):
        kind = rng.choice(4, n, p=[worse, better, 0.8, 0.11])
        reference = np.isin(kind, [0, 2]).astype(float)
        candidate = np.isin(kind, [1, 2]).astype(float)
        bound = judged("top1", candidate, reference, 0.01).loss_upper
        covered += bound is not None and bound >= worse - better
    assert 0.92 <= covered / 600 <= 0.985


def test_other_metrics_are_bootstrapped_and_repeat() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(1, 0.1, 200) ** 2
    candidate = reference + rng.normal(0.05, 0.01, 200)
    found = judged("mse", candidate, reference, 0.1)
    assert found.loss == pytest.approx(0.05, abs=0.005)
    assert found.loss_upper is not None
    assert found.loss < found.loss_upper < 0.06
    assert found.strength == "strong"
    assert judged("mse", candidate, reference, 0.1) == found


def test_lower_is_better_turns_the_sign() -> None:
    assert evidence.loss_of(0.4, 0.5, higher_is_better=True) == pytest.approx(0.1)
    assert evidence.loss_of(0.4, 0.5, higher_is_better=False) == pytest.approx(-0.1)
