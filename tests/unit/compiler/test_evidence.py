"""Evidence: what may be said of a loss from so many samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

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


def test_the_interval_has_two_sides_and_says_how_sure_it_is() -> None:
    reference = right(500, list(range(50)))
    candidate = right(500, [*range(45), *range(100, 110)])
    found = judged("top1", candidate, reference, 0.02)
    assert found.loss_lower is not None
    assert found.loss_upper is not None
    assert found.loss_lower < found.loss < found.loss_upper
    assert found.confidence == pytest.approx(0.95)


def test_candidates_that_are_named_together_share_the_error_rate() -> None:
    reference = right(500, list(range(50)))
    candidate = right(500, [*range(45), *range(100, 110)])
    metric = metrics.get(MetricRule(name="top1", budget=0.02))
    alone = evidence.paired("top1", metric, candidate, reference, budget=0.02)
    shared = evidence.paired("top1", metric, candidate, reference, budget=0.02, named=3)
    assert shared.loss == alone.loss
    assert shared.confidence == pytest.approx(1 - 0.05 / 3)
    assert shared.loss_upper is not None
    assert alone.loss_upper is not None
    assert shared.loss_upper > alone.loss_upper


def test_weak_evidence_says_how_many_samples_would_decide() -> None:
    rng = np.random.default_rng(3)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        reference = (rng.random(n) < 0.9).astype(float)
        flip = rng.random(n) < 0.02
        return np.where(flip, 1 - reference, reference), reference

    candidate, reference = draw(200)
    candidate[:] = reference
    candidate[:2] = 1 - candidate[:2]
    few = judged("top1", candidate, reference, 0.02)
    assert few.strength == "weak"
    assert few.samples_needed is not None
    assert few.samples_needed > 200
    often = few.samples_needed // 200 + 1
    many = judged("top1", np.tile(candidate, often), np.tile(reference, often), 0.02)
    assert many.strength == "strong"
    assert many.samples_needed is None
    fewer = max(1, few.samples_needed // 200 - 1)
    assert (
        judged("top1", np.tile(candidate, fewer), np.tile(reference, fewer), 0.02).strength
        == "weak"
    )


def test_no_number_of_samples_decides_for_a_loss_beyond_the_budget() -> None:
    reference = np.ones(300)
    found = judged("top1", right(300, list(range(30))), reference, 0.01)
    assert found.loss == pytest.approx(0.1)
    assert found.samples_needed is None


@pytest.mark.parametrize(("worse", "better"), [(0, 0), (3, 3), (9, 1), (1, 9), (40, 22)])
def test_mcnemar_is_the_mid_p_of_the_binomial(worse: int, better: int) -> None:
    reference = right(200, list(range(better)))
    candidate = right(200, list(range(100, 100 + worse)))
    found = judged("top1", candidate, reference, 1.0).p_value
    n, low = worse + better, min(worse, better)
    if n == 0:
        assert found == 1
        return
    expected = 2 * stats.binom.cdf(low, n, 0.5) - stats.binom.pmf(low, n, 0.5)
    assert found == pytest.approx(min(1.0, expected))
