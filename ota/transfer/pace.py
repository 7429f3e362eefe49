"""How much a device asks for at once, and how long it waits: a window that follows the link.

Rules:
- At most about a second of the measured rate is in flight, so that control messages get through.
- The window doubles while answers come well within the second, and halves when none come in time.
- A wait that was in vain doubles the next one, up to a minute.
"""

from __future__ import annotations

from typing import Final

IN_FLIGHT_S: Final = 1.0
MIN_WAIT_S: Final = 2.0
FIRST_WAIT_S: Final = 10.0
MAX_WAIT_S: Final = 60.0
MAX_WINDOW: Final = 64
FIRST_WINDOW: Final = 4
_SMOOTHING = 0.3


class Pace:
    """Window (blocks) and patience (seconds) of one download.

    Attributes:
        window: blocks that may be in flight.
        wait_s: how long to wait for a block before it is asked for again.
        rate_bytes_s: smoothed rate; 0 until measured.
    """

    __slots__ = ("rate_bytes_s", "wait_s", "window")

    def __init__(self) -> None:
        self.window = FIRST_WINDOW
        self.wait_s = FIRST_WAIT_S
        self.rate_bytes_s = 0.0

    def measured(self, *, size_bytes: int, elapsed_s: float, first_s: float, block: int) -> None:
        """An answer has come in full.

        Args:
            size_bytes: what came.
            elapsed_s: from the request to its last block.
            first_s: from the request to its first block.
            block: bytes per block.
        """
        rate = size_bytes / max(elapsed_s, 1e-3)
        old = self.rate_bytes_s or rate
        self.rate_bytes_s = old + _SMOOTHING * (rate - old)
        fits = int(self.rate_bytes_s * IN_FLIGHT_S / block)
        self.window = max(1, min(fits, self.window * 2, MAX_WINDOW))
        self.wait_s = min(max(4 * first_s, 4 * block / self.rate_bytes_s, MIN_WAIT_S), MAX_WAIT_S)

    def in_vain(self) -> None:
        """Nothing came within `wait_s`."""
        self.window = max(1, self.window // 2)
        self.wait_s = min(self.wait_s * 2, MAX_WAIT_S)
