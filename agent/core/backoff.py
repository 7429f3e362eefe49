"""Waiting longer after each failure, up to a bound."""

from __future__ import annotations


class Backoff:
    """Delays that double.

    Args:
        first_s: the first delay.
        longest_s: no delay is longer.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self.failures = 0

    def next_s(self) -> float:
        """The delay after one more failure."""
        self.failures += 1
        return min(self._first_s * 2.0 ** min(self.failures - 1, 30), self._longest_s)

    def reset(self) -> None:
        """It worked."""
        self.failures = 0
