"""By which way a blob is asked for: MQTT, or HTTPS as the fallback and for what is longer than the operator set.

Rules:
- Blocks are the same by either way, so that a change in the middle of a download loses nothing.
- Without a preference HTTPS is taken when MQTT answers nothing `MAX_VAIN` times, or while its link is down;
  MQTT is tried again after `RETURN_S`.
- What fails over HTTPS is asked for over MQTT, and HTTPS is tried again after pauses that grow.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MAX_VAIN: Final = 2
RETURN_S: Final = 300.0
LINK_PATIENCE_S: Final = 10.0
FIRST_PAUSE_S: Final = 30.0
LONGEST_PAUSE_S: Final = 600.0


class Way(str, Enum):
    """A way for blocks."""

    MQTT = "mqtt"
    HTTPS = "https"


class Route:
    """Chooses for one download.

    Args:
        prefers_https: the blob is longer than the operator set.
        possible: whether there is HTTPS at all.

    Attributes:
        way: what is in use now; None: nothing is possible.
        problem: what failed over HTTPS last; empty: nothing.
    """

    def __init__(self, *, prefers_https: bool, possible: bool) -> None:
        self._prefers, self._possible = prefers_https and possible, possible
        self._https_from = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._fallen_until = 0.0
        self._down_since: float | None = None
        self.way: Way | None = None
        self.problem = ""

    def choose(self, now: float, *, connected: bool, vain_n: int) -> bool:
        """Look at how things stand; whether the way has changed since the last time.

        Args:
            now: monotonic, seconds.
            connected: whether the MQTT link stands.
            vain_n: waits that were in vain since a block came.
        """
        if connected:
            self._down_since = None
        elif self._down_since is None:
            self._down_since = now
        if self.way is Way.MQTT and vain_n >= MAX_VAIN and self._https_at(now):
            self._fallen_until = now + RETURN_S
        before, self.way = self.way, self._best(now, connected=connected)
        return before is not None and self.way is not before

    def failed(self, now: float, problem: str) -> None:
        """A request over HTTPS came to nothing."""
        self.problem = problem
        self._https_from = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._fallen_until = 0.0

    def worked(self) -> None:
        """A block came over HTTPS."""
        self.problem, self._pause_s = "", FIRST_PAUSE_S

    def deadline(self, now: float) -> float | None:
        """When `choose` may find something else although nothing happened."""
        times = [self._https_from, self._fallen_until]
        if self._down_since is not None and self._possible:
            times.append(self._down_since + LINK_PATIENCE_S)
        return min((due for due in times if due > now), default=None)

    def _https_at(self, now: float) -> bool:
        return self._possible and now >= self._https_from

    def _best(self, now: float, *, connected: bool) -> Way | None:
        down = self._down_since is not None and now >= self._down_since + LINK_PATIENCE_S
        if self._https_at(now) and (self._prefers or now < self._fallen_until or down):
            return Way.HTTPS
        return Way.MQTT if connected else None
