"""How much a device asks for at once, and how long it waits: a window that follows the link.

Rules:
- At most about a second of the measured rate is in flight, so that control messages get through.
- The window starts small, grows up to fourfold with each answer, and halves when none come in time.
- A wait that was in vain doubles the next one, up to a minute.
- An allowance bounds what is asked for over time, where the assignment sets a limit.
"""

from __future__ import annotations

from typing import Final

IN_FLIGHT_S: Final = 1.0
MIN_WAIT_S: Final = 2.0
FIRST_WAIT_S: Final = 10.0
MAX_WAIT_S: Final = 60.0
MIN_WINDOW_BYTES: Final = 16 << 10
FIRST_WINDOW_BYTES: Final = 32 << 10
MAX_WINDOW_BYTES: Final = 8 << 20
GROWTH: Final = 4
_RISING: Final = 0.5
_FALLING: Final = 0.3


class Pace:
    """Window (bytes) and patience (seconds) of one download.

    Attributes:
        window_bytes: what may be in flight.
        wait_s: how long to wait for a block before it is asked for again.
        rate_bytes_s: smoothed rate; 0 until measured.
        vain_n: waits that were in vain since something came.
    """

    __slots__ = ("rate_bytes_s", "vain_n", "wait_s", "window_bytes")

    def __init__(self) -> None:
        self.window_bytes = FIRST_WINDOW_BYTES
        self.wait_s = FIRST_WAIT_S
        self.rate_bytes_s = 0.0
        self.vain_n = 0

    def measured(self, *, size_bytes: int, elapsed_s: float, first_s: float) -> None:
        """An answer has come in full.

        Args:
            size_bytes: what came.
            elapsed_s: while its answer had the link for itself.
            first_s: from the request to its first block.
        """
        rate = size_bytes / max(elapsed_s, 1e-3)
        old = self.rate_bytes_s or rate
        self.rate_bytes_s = old + (_RISING if rate > old else _FALLING) * (rate - old)
        fits = int(self.rate_bytes_s * IN_FLIGHT_S)
        self.window_bytes = max(
            MIN_WINDOW_BYTES, min(fits, self.window_bytes * GROWTH, MAX_WINDOW_BYTES)
        )
        patience = max(4 * first_s, 4 * MIN_WINDOW_BYTES / self.rate_bytes_s, MIN_WAIT_S)
        self.wait_s = min(patience, MAX_WAIT_S)
        self.vain_n = 0

    def in_vain(self) -> None:
        """Nothing came within `wait_s`."""
        self.window_bytes = max(MIN_WINDOW_BYTES, self.window_bytes // 2)
        self.wait_s = min(self.wait_s * 2, MAX_WAIT_S)
        self.vain_n += 1


class Allowance:
    """What may be asked for in the long run: a token bucket of one second.

    Args:
        limit_bytes_s: 0: no limit.
    """

    __slots__ = ("_at", "_level", "limit_bytes_s")

    def __init__(self, limit_bytes_s: int) -> None:
        self.limit_bytes_s = limit_bytes_s
        self._level, self._at = 0.0, float("-inf")

    def units(self, unit_bytes: int, now: float) -> int | None:
        """How many units may be asked for now; None: any number."""
        if not self.limit_bytes_s:
            return None
        most = float(max(self.limit_bytes_s * IN_FLIGHT_S, unit_bytes))
        self._level = min(most, self._level + (now - self._at) * self.limit_bytes_s)
        self._at = now
        return int(self._level / unit_bytes + 1e-9)

    def spend(self, size_bytes: int) -> None:
        """So much was asked for."""
        self._level -= size_bytes

    def due(self, unit_bytes: int) -> float:
        """When a unit may be asked for again, after `units` was called."""
        return self._at + max(0.0, unit_bytes - self._level) / self.limit_bytes_s
