"""The two clocks: durations from the kernel's boot clock, which goes on during sleep; and the wall's."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from agent.errors import ConfigError

JUMP_S = 1.0


def monotonic() -> float:
    """Seconds since the machine started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """The local clock, right or wrong, seconds since the epoch."""
    return time.time()


def utc_offset(time_zone: str) -> Callable[[float], float]:
    """What a time zone's local time is ahead of UTC at a Unix time, in seconds.

    Args:
        time_zone: its name in the IANA database; empty: the system's.

    Raises:
        ConfigError: this system knows no such time zone.
    """
    if not time_zone:
        return lambda at: float(time.localtime(at).tm_gmtoff)
    try:
        zone = ZoneInfo(time_zone)
    except (ValueError, OSError, LookupError):
        raise ConfigError(
            f"time_zone: expected a time zone that this system knows, for instance Europe/Berlin, "
            f"found {time_zone!r}; mend it, or install the system's tzdata"
        ) from None

    def offset(at: float) -> float:
        shift = datetime.fromtimestamp(at, tz=timezone.utc).astimezone(zone).utcoffset()
        return shift.total_seconds() if shift is not None else 0.0

    return offset


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
