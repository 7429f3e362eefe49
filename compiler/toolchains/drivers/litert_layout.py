"""Which order of axes a converter gave to which tensor, found by asking both models the same.

Laid beside the driver ``litert``; it needs numpy alone. Rules:
- A converter turns channels-first tensors into channels-last ones, or leaves them; nothing else is tried.
- Shapes decide where they can; where they cannot, samples and random probes do.
- Orders that answer alike on every probe are the same function, unless no probe made a difference at all:
  then nothing is proved, and that is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

TOLERANCE: Final = 1e-4
"""Of an answer's range; of whole numbers and flags, the share that may differ."""

MAX_COMBINATIONS: Final = 243
"""Five inputs with three orders each; beyond, the converter is asked to leave inputs alone."""

PROBES: Final = 4
DISCRETE_PROBES: Final = 16
"""More where an input or an output is no float: such models have paths that few values lead to."""

_HALF_STEPS: Final = 2.0**-9
_LAST: Final = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
_FIRST: Final = {3: (0, 2, 1), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}

Order = tuple[int, ...]
Feed = dict[str, Any]


def orders(source: Sequence[int], target: Sequence[int]) -> list[Order]:
    """Orders of axes that turn shape `source` into `target`, the plain one first.

    ``target[i] == source[order[i]]``, as `numpy.transpose` takes it.
    """
    axes = len(source)
    if axes != len(target):
        return []
    plain = tuple(range(axes))
    tried = dict.fromkeys([plain, _LAST.get(axes, plain), _FIRST.get(axes, plain)])
    return [order for order in tried if tuple(source[i] for i in order) == tuple(target)]


def combinations(choices: Mapping[str, Sequence[Order]]) -> Iterator[dict[str, Order]]:
    """Every way to pick one order for each input."""
    for picked in itertools.product(*choices.values()):
        yield dict(zip(choices, picked, strict=True))


def count(choices: Mapping[str, Sequence[Order]]) -> int:
    """How many combinations there are."""
    return int(np.prod([len(one) for one in choices.values()], dtype=np.int64))


def distance(found: Any, expected: Any) -> float:
    """Largest difference relative to the range of what is expected; of whole numbers, the share that differs.

    Two steps of float16 are its rounding and no difference. Infinite where shapes differ, or where only one of the two is NaN, or infinite, in a place.
    """
    if found.shape != expected.shape:
        return float("inf")
    if found.size == 0:
        return 0.0
    if expected.dtype.kind in "biu":
        return float(np.mean(found.astype(expected.dtype) != expected))
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        special = ~np.isfinite(b)
        if not np.array_equal(~np.isfinite(a), special):
            return float("inf")
        if not np.array_equal(a[special], b[special], equal_nan=True):
            return float("inf")
        a, b = a[~special], b[~special]
        if not b.size:
            return 0.0
        worst = float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-6))
        return max(worst - _HALF_STEPS, 0.0) if expected.dtype == np.float16 else worst


def best_order(
    found: Sequence[Any], expected: Sequence[Any]
) -> tuple[Order | None, float, list[Order]]:
    """The order of axes that turns an output's answers into the expected ones, over all samples.

    Returns:
        The order, the difference that remains with it, and all orders that agree within the tolerance.
    """
    scored = [
        (max(distance(f.transpose(order), e) for f, e in zip(found, expected, strict=True)), order)
        for order in orders(found[0].shape, expected[0].shape)
    ]
    if not scored:
        return None, float("inf"), []
    agreeing = [order for score, order in scored if score <= TOLERANCE]
    if agreeing:
        return agreeing[0], {order: score for score, order in scored}[agreeing[0]], agreeing
    score, order = min(scored)
    return order, score, []


def varies(answers: Iterable[Any]) -> bool:
    """Whether any two answers differ."""
    first, *others = answers
    return any(not np.array_equal(first, one, equal_nan=first.dtype.kind == "f") for one in others)


def probe_feeds(samples: Sequence[Feed], seed: int, many: int = PROBES) -> Iterator[list[Feed]]:
    """Inputs like the samples, and unlike any of them; of each the bolder form first.

    Values are drawn from those that an input has in the samples, or anywhere between its extremes. Flags are
    mixed, all off, and all on. Whole numbers are only ever drawn from what was seen, or all the smallest or
    largest of it, as they may count or point at something; the second form leaves them as they are in a sample.
    """
    rng = np.random.default_rng(seed)
    pools = {name: np.concatenate([np.ravel(s[name]) for s in samples]) for name in samples[0]}
    for at in range(many):
        base = samples[at % len(samples)]
        feed = {name: _like(pools[name], base[name], at, rng) for name in base}
        careful = {n: a if base[n].dtype.kind == "f" else base[n] for n, a in feed.items()}
        yield [feed, careful]


def _like(pool: Any, sample: Any, at: int, rng: np.random.Generator) -> Any:
    kind = sample.dtype.kind
    if kind == "b":
        return rng.random(sample.shape) < (0.5, 0.0, 1.0, 0.5)[at % 4]
    if not pool.size:
        return sample.copy()
    if kind != "f":
        extremes = {1: pool.min(), 2: pool.max()}
        drawn = extremes[at] if at in extremes else rng.choice(pool, sample.shape)
        return np.broadcast_to(drawn, sample.shape).astype(sample.dtype)
    finite = pool[np.isfinite(pool)].astype(np.float64)
    lo, hi = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if hi - lo < 1e-6 * max(abs(lo), abs(hi), 1e-6):
        return (lo + rng.normal(size=sample.shape)).astype(sample.dtype)
    if at % 2:
        return rng.uniform(lo, hi, sample.shape).astype(sample.dtype)
    drawn = rng.choice(finite, sample.shape) + rng.normal(0.0, 0.05 * (hi - lo), sample.shape)
    return np.clip(drawn, lo, hi).astype(sample.dtype)
