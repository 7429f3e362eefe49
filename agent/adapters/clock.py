"""The two clocks: durations from the kernel's boot clock, which goes on during sleep; and the wall's."""

from __future__ import annotations

import time

JUMP_S = 1.0


def monotonic() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """The local clock, right or wrong, seconds since the epoch."""
    return time.time()


class WallWatch:
    """Sees when somebody sets the wall clock."""

    def __init__(self) -> None:
        self._offset = wall() - monotonic()

    def jumped(self) -> bool:
        """Whether it was set since the last call."""
        offset = wall() - monotonic()
        if abs(offset - self._offset) < JUMP_S:
            return False
        self._offset = offset
        return True
