"""Probation: what a candidate must show on real requests before it is committed.

Rules:
- `good_answers` answers, of which at most a tenth failed, prove it.
- Three failures that are more than a tenth of all disprove it at once.
- When nobody asks it enough in `probation_s`, the golden vectors run once more, through the very
  process that answers; their verdict counts.
"""

from __future__ import annotations

from enum import Enum

from agent.core.context import Context

POLL_S = 1.0
TEST_TIMEOUT_S = 180.0
_MIN_FAILURES = 3


class Verdict(str, Enum):
    """What is next."""

    WAIT = "wait"
    ASK = "ask"
    TEST = "test"
    PROVED = "proved"
    DISPROVED = "disproved"


class Probation:
    """One candidate's probation; it begins now."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._good = self._bad = 0
        self._began = ctx.now
        self._next_poll = ctx.now
        self._tested = False

    @property
    def _ends(self) -> float:
        return self._began + self._ctx.settings.probation_s

    def add(self, inferences: int, errors: int) -> None:
        """Count answers and failures since the last time."""
        self._good += inferences
        self._bad += errors

    def judge(self) -> Verdict:
        """What is next; asks for each thing once."""
        now = self._ctx.now
        too_many = self._bad * 10 > self._good + self._bad
        if too_many and (self._bad >= _MIN_FAILURES or now >= self._ends):
            return Verdict.DISPROVED
        if self._good >= self._ctx.settings.good_answers and not too_many:
            return Verdict.PROVED
        if now >= self._ends and not self._tested:
            self._tested = True
            return Verdict.TEST
        if now >= self._ends + TEST_TIMEOUT_S:
            return Verdict.DISPROVED
        if now >= self._next_poll:
            self._next_poll = now + POLL_S
            return Verdict.ASK
        return Verdict.WAIT

    def deadline(self) -> float:
        """When to judge again."""
        return min(self._next_poll, self._ends) if not self._tested else self._next_poll

    def figures(self) -> dict[str, float]:
        """For the report."""
        return {
            "good_answers": float(self._good),
            "failed_answers": float(self._bad),
            "probation_s": round(self._ctx.now - self._began, 3),
        }

    def text(self) -> str:
        """For a person."""
        return (
            f"expected {self._ctx.settings.good_answers} good answers with at most a tenth failing, "
            f"found {self._good} good and {self._bad} failed in {self._ctx.now - self._began:.0f} s"
        )
