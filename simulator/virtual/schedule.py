"""Virtual time: one heap of what happens next. Nothing else moves the clock.

Rule: what is due at the same moment happens in the order in which it was planned, so that a seed
replays to the last step.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from simulator.errors import ViolationError

MAX_STEPS_A_SECOND = 200_000
"""More steps than this within one virtual second means that something spins."""


class Schedule:
    """The clock and the heap.

    Attributes:
        now: seconds since the world began.
        steps: how many events have happened.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._second, self._in_second = 0, 0

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        """Plan `act` in `delay_s` seconds; at once, in turn, when that is not above 0."""
        heapq.heappush(self._heap, (self.now + max(0.0, delay_s), next(self._order), act))

    def every(self, interval_s: float, act: Callable[[], None]) -> None:
        """Plan `act` again and again."""

        def again() -> None:
            act()
            self.after(interval_s, again)

        self.after(interval_s, again)

    def run(self, until: float) -> None:
        """Let everything happen that is due up to `until`.

        Raises:
            ViolationError: time does not advance any more.
        """
        while self._heap and self._heap[0][0] <= until:
            self.now, _, act = heapq.heappop(self._heap)
            self.steps += 1
            self._watch()
            act()
        self.now = max(self.now, until)

    def _watch(self) -> None:
        if int(self.now) != self._second:
            self._second, self._in_second = int(self.now), 0
        self._in_second += 1
        if self._in_second > MAX_STEPS_A_SECOND:
            raise ViolationError(
                f"expected time to pass, found {self._in_second} steps within second {self._second}"
            )
