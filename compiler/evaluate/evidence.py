"""How sure it is that a candidate loses no more than the budget.

The loss is paired: candidate and fp32 model answer the same samples. Its one-sided 95 % upper bound is

- for top1 and topk, where each sample is right or wrong: the Wald interval for paired proportions with
  half a count added to each discordant cell (Agresti and Min 2005), which rests on the same
  discordant pairs as McNemar's test;
- for the other built-in metrics: the percentile of a paired bootstrap over samples (Efron 1979).

``strong``: the upper bound is within the budget. ``weak``: only the measured loss is.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from compiler.evaluate.metrics import BuiltIn

CONFIDENCE: Final = 0.95
_Z: Final = 1.6448536269514722
_DRAWS: Final = 1000
_SEED: Final = 20
_BINARY: Final = ("top1", "topk")

Floats = NDArray[np.float64]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A loss and what is known about it.

    Attributes:
        loss: reference minus candidate where higher is better, else candidate minus reference.
        loss_upper: one-sided 95 % upper bound; None when there is none (custom metrics).
        strength: strong or weak.
        samples: how many were scored.
        method: how the bound was found.
    """

    loss: float
    loss_upper: float | None
    strength: str
    samples: int
    method: str


def loss_of(value: float, reference: float, *, higher_is_better: bool) -> float:
    """By how much a candidate is worse than the reference; negative when it is better."""
    return reference - value if higher_is_better else value - reference


def paired(
    name: str, metric: BuiltIn, candidate: Floats, reference: Floats, *, budget: float
) -> Evidence:
    """Evidence from statistics per sample.

    Args:
        name: of the metric.
        metric: built in.
        candidate: statistics of the candidate, first axis samples.
        reference: those of the fp32 model on the same samples.
        budget: largest loss that is accepted.
    """
    better = metric.higher_is_better
    loss = loss_of(metric.reduce(candidate), metric.reduce(reference), higher_is_better=better)
    if name in _BINARY:
        upper, method = _agresti_min(candidate, reference), "paired proportions (Agresti-Min)"
    else:
        upper, method = _bootstrap(metric, candidate, reference), "paired bootstrap"
    strong = math.isfinite(upper) and upper <= budget
    return Evidence(
        loss=loss,
        loss_upper=upper if math.isfinite(upper) else None,
        strength="strong" if strong else "weak",
        samples=len(candidate),
        method=method,
    )


def _agresti_min(candidate: Floats, reference: Floats) -> float:
    n = len(candidate) + 2
    worse = float(((reference == 1) & (candidate == 0)).sum()) + 0.5
    better = float(((reference == 0) & (candidate == 1)).sum()) + 0.5
    difference = (worse - better) / n
    variance = ((worse + better) - (worse - better) ** 2 / n) / n**2
    return difference + _Z * math.sqrt(max(variance, 0.0))


def _bootstrap(metric: BuiltIn, candidate: Floats, reference: Floats) -> float:
    rng = np.random.default_rng(_SEED)
    n = len(candidate)
    losses = []
    for _ in range(_DRAWS):
        rows = rng.integers(0, n, n)
        value, base = metric.reduce(candidate[rows]), metric.reduce(reference[rows])
        losses.append(loss_of(value, base, higher_is_better=metric.higher_is_better))
    finite = [loss for loss in losses if math.isfinite(loss)]
    return float(np.quantile(finite, CONFIDENCE)) if finite else math.inf
