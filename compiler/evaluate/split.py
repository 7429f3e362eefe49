"""The selection split: evaluation samples that the search may look at, so that the gate's are fresh.

Rules:
- It is drawn once per evaluation file, by a seed made of the file's digest: the same file, the same split.
- Recipes, calibrators and kept layers are chosen on it and on calibration data; the rest is held out,
  and read once, for the candidates that were named before.
- Too few samples are not split: the search then has calibration data alone.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

SHARE: Final = 0.2
MOST: Final = 400
FEWEST: Final = 100
"""Fewer samples than this stay together."""

SELECTION: Final = "selection"
HELD_OUT: Final = "held_out"
EVERY: Final = "every"


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """How the evaluation samples are divided.

    Attributes:
        seed: of the draw.
        selection, held_out: numbers of samples; a selection of 0 means that there is none.
    """

    seed: int
    selection: int
    held_out: int


def of(samples: int, sha256: str, *, divisible: bool = True) -> Split:
    """The split of an evaluation file.

    Args:
        samples: how many it has.
        sha256: the file's digest.
        divisible: whether its metric can be scored on a part of it.
    """
    count = min(int(samples * SHARE), MOST) if divisible and samples >= FEWEST else 0
    return Split(seed=int(sha256[:8], 16), selection=count, held_out=samples - count)


def rows(split: Split, part: str) -> NDArray[np.intp]:
    """Indices of a part's samples, sorted.

    Args:
        split: the division.
        part: `SELECTION`, `HELD_OUT` or `EVERY`.
    """
    total = split.selection + split.held_out
    if part == EVERY:
        return np.arange(total)
    drawn = np.random.default_rng(split.seed).permutation(total)
    chosen = drawn[: split.selection] if part == SELECTION else drawn[split.selection :]
    return np.sort(chosen)
