"""How far the answers of a quantized model lie off those of the float model, in figures that both backends share.

Laid beside the drivers, which import it as ``deviations``; it needs numpy alone. Errors are relative to the energy of
what the float model says: 0 dB is as much error as signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

MOST_DB: Final = 200.0
SHOWN_BINS: Final = 64


def relative_noise(expected: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> float:
    """Energy of the error over the energy of the answers, the mean over the outputs.

    Args:
        expected: by sample, then by output.
        found: the same, of the other model; an answer that is no number counts as zero.
    """
    shares = []
    for one, other in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        reference = np.concatenate([np.ravel(array) for array in one]).astype(np.float64)
        answer = np.concatenate([np.ravel(array) for array in other]).astype(np.float64)
        shares.append(Deviation.of(reference, answer).noise)
    return float(np.mean(shares))


def decibels(noise: float) -> float:
    """Signal to noise, no more than `MOST_DB` in size."""
    floor = 10.0 ** (-MOST_DB / 10)
    return float(np.clip(-10.0 * np.log10(max(noise, floor)), -MOST_DB, MOST_DB))


@dataclass
class Deviation:
    """Sums over values of a tensor that two models give."""

    signal: float = 0.0
    answer: float = 0.0
    product: float = 0.0
    noise_energy: float = 0.0
    max_abs: float = 0.0

    @classmethod
    def of(cls, reference: Any, answer: Any) -> Deviation:
        """Of one pair of arrays."""
        made = cls()
        made.add(reference, answer)
        return made

    def add(self, reference: Any, answer: Any) -> None:
        """Take in a pair of arrays with as many values each; what is not finite counts as zero there."""
        a = np.ravel(reference).astype(np.float64)
        b = np.ravel(answer).astype(np.float64)
        a = np.where(np.isfinite(a), a, 0.0)
        b = np.where(np.isfinite(b), b, 0.0)
        self.signal += float(a @ a)
        self.answer += float(b @ b)
        self.product += float(a @ b)
        difference = a - b
        self.noise_energy += float(difference @ difference)
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))

    @property
    def noise(self) -> float:
        """Energy of the error relative to the signal's; 1 at most where there is no signal."""
        if self.signal == 0.0:
            return float(self.noise_energy > 0.0)
        return self.noise_energy / self.signal

    @property
    def cosine(self) -> float:
        """Cosine similarity; 1 for two zeros."""
        if self.signal == 0.0 or self.answer == 0.0:
            return float(self.signal == self.answer)
        return self.product / float(np.sqrt(self.signal) * np.sqrt(self.answer))


def histogram(array: Any) -> dict[str, Any]:
    """Counts of an array's values between its smallest and its largest."""
    finite = array[np.isfinite(array)]
    lo, hi = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    counts, _ = np.histogram(finite, bins=SHOWN_BINS, range=(lo, hi if hi > lo else lo + 1.0))
    return {"lo": lo, "hi": hi, "counts": [int(count) for count in counts]}
