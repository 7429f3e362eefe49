"""How sure it is that a candidate loses no more than the budget.

The loss is paired: candidate and fp32 model answer the same samples. Its interval is

- for top1 and topk, where each sample is right or wrong: the Wald interval for paired proportions with
  half a count added to each discordant cell (Agresti and Min 2005), which rests on the same discordant
  pairs as McNemar's test, whose exact mid-p value (Fagerland, Lydersen and Laake 2013) is given too;
- for other metrics with a statistic per sample: the percentiles of a paired bootstrap (Efron 1979).

Each bound is one-sided. Where several candidates are named before the held-out split is read, they share
the error rate (Bonferroni): each is judged with ``ALPHA / named``.

``strong``: the upper bound of the loss is within the budget. ``weak``: only the measured loss is; then
`samples_needed` says how many samples would decide if the loss and its spread stay as they are.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from compiler.evaluate.metrics import BuiltIn

ALPHA: Final = 0.05
_DRAWS: Final = 2000
_SEED: Final = 20
_BINARY: Final = ("top1", "topk")
_MOST_SAMPLES: Final = 10_000_000

Floats = NDArray[np.float64]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A loss and what is known about it.

    Attributes:
        loss: reference minus candidate where higher is better, else candidate minus reference.
        loss_lower, loss_upper: one-sided bounds at `confidence`; None when there are none (a custom metric
            that gives one number).
        strength: strong or weak.
        samples: how many were scored.
        samples_needed: how many would decide; None when it is decided, or when none would.
        confidence: of each bound.
        p_value: McNemar's exact mid-p for "no change"; None for other metrics.
        method: how the interval was found.
    """

    loss: float
    loss_upper: float | None
    strength: str
    samples: int
    method: str
    loss_lower: float | None = None
    samples_needed: int | None = None
    confidence: float = 1 - ALPHA
    p_value: float | None = None


def loss_of(value: float, reference: float, *, higher_is_better: bool) -> float:
    """By how much a candidate is worse than the reference; negative when it is better."""
    return reference - value if higher_is_better else value - reference


def reach(confidence: float) -> float:
    """Standard errors between an estimate and its one-sided bound."""
    return NormalDist().inv_cdf(confidence)


def unpaired(loss: float) -> Evidence:
    """Of a metric that gives one number, which cannot be resampled."""
    return Evidence(
        loss=loss,
        loss_upper=None,
        strength="weak",
        samples=0,
        method="none: a custom metric gave one number, which cannot be resampled",
    )


def paired(
    name: str,
    metric: BuiltIn,
    candidate: Floats,
    reference: Floats,
    *,
    budget: float,
    named: int = 1,
) -> Evidence:
    """Evidence from statistics per sample.

    Args:
        name: of the metric.
        metric: its reduction.
        candidate: statistics of the candidate, first axis samples.
        reference: those of the fp32 model on the same samples.
        budget: largest loss that is accepted.
        named: how many candidates are judged on these samples.
    """
    alpha = ALPHA / named
    better = metric.higher_is_better
    loss = loss_of(metric.reduce(candidate), metric.reduce(reference), higher_is_better=better)
    p_value = None
    if name in _BINARY:
        lower, upper = _agresti_min(candidate, reference, alpha)
        p_value = _mcnemar(candidate, reference)
        method = "paired proportions (Agresti-Min), McNemar mid-p"
    else:
        lower, upper = _bootstrap(metric, candidate, reference, alpha)
        method = "paired bootstrap"
    strong = math.isfinite(upper) and upper <= budget + 1e-12
    return Evidence(
        loss=loss,
        loss_lower=lower if math.isfinite(lower) else None,
        loss_upper=upper if math.isfinite(upper) else None,
        strength="strong" if strong else "weak",
        samples=len(candidate),
        samples_needed=None if strong else _needed(len(candidate), loss, upper, budget),
        confidence=1 - alpha,
        p_value=p_value,
        method=method,
    )


def _needed(n: int, loss: float, upper: float, budget: float) -> int | None:
    """How many samples bring the upper bound into the budget: its distance shrinks with the root of n."""
    room = budget - loss
    if room <= 0 or not math.isfinite(upper):
        return None
    needed = math.ceil(n * ((upper - loss) / room) ** 2)
    return needed if needed <= _MOST_SAMPLES else None


def _agresti_min(candidate: Floats, reference: Floats, alpha: float) -> tuple[float, float]:
    n = len(candidate) + 2
    worse = float(((reference == 1) & (candidate == 0)).sum()) + 0.5
    better = float(((reference == 0) & (candidate == 1)).sum()) + 0.5
    difference = (worse - better) / n
    variance = ((worse + better) - (worse - better) ** 2 / n) / n**2
    half = reach(1 - alpha) * math.sqrt(max(variance, 0.0))
    return difference - half, difference + half


def _mcnemar(candidate: Floats, reference: Floats) -> float:
    """Exact mid-p: under "no change" each discordant pair falls to either side with probability 1/2."""
    worse = int(((reference == 1) & (candidate == 0)).sum())
    n = worse + int(((reference == 0) & (candidate == 1)).sum())
    if n == 0:
        return 1.0
    low = min(worse, n - worse)

    def log_mass(k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)

    tail = sum(math.exp(log_mass(k)) for k in range(low + 1))
    return min(1.0, max(0.0, 2 * tail - math.exp(log_mass(low))))


def _bootstrap(
    metric: BuiltIn, candidate: Floats, reference: Floats, alpha: float
) -> tuple[float, float]:
    rng = np.random.default_rng(_SEED)
    n = len(candidate)
    losses = []
    for _ in range(_DRAWS):
        rows = rng.integers(0, n, n)
        value, base = metric.reduce(candidate[rows]), metric.reduce(reference[rows])
        losses.append(loss_of(value, base, higher_is_better=metric.higher_is_better))
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        return -math.inf, math.inf
    return float(np.quantile(finite, alpha)), float(np.quantile(finite, 1 - alpha))
