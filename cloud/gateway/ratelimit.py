"""How often one caller may ask: a token bucket per key.

Pure: time comes in as `now`, monotonic seconds.
"""

from __future__ import annotations

MAX_KEYS = 10_000


class RateLimit:
    """Allows `burst` requests at once and `per_s` a second in the long run, per key."""

    def __init__(self, *, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._level: dict[str, tuple[float, float]] = {}

    def allow(self, key: str, now: float) -> bool:
        """Whether `key` may ask now; asking too often does not make the wait longer."""
        level, seen = self._level.pop(key, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - seen) * self._per_s)
        allowed = level >= 1.0
        self._level[key] = (level - 1.0 if allowed else level, now)
        while len(self._level) > MAX_KEYS:
            del self._level[next(iter(self._level))]
        return allowed
