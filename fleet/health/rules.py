"""What makes a device healthy, as data: one rule per line, judged by `fleet.health.judge`.

Rules:
- A figure is a number under a name that says its unit; the agent's sensors and the registry use the
  same names. What a device cannot measure is absent, and absent is not unhealthy.
- A rule holds while ``figure >= limit`` (`at_least`) or ``figure <= limit`` (`at_most`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from fleet.wire.messages import EventLevel


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A predicate over one figure.

    Attributes:
        name: stable name, e.g. ``disk.low``.
        figure: the figure that it judges.
        at_least: lowest healthy value; None when there is none.
        at_most: highest healthy value; None when there is none.
        level: how much a violation matters.
        remedy: what a person should do.
    """

    name: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    level: EventLevel = EventLevel.WARNING
    remedy: str


SQLITE_FIXED: Final = 3_051_003
"""First SQLite without the WAL-reset bug (3.7.0 to 3.51.2), as ``SQLITE_VERSION_NUMBER``."""

RULES: Final = (
    Rule(
        name="disk.low", figure="disk_free_mib", at_least=512,
        remedy="free space on the state directory's disk, or the next update cannot be staged",
    ),
    Rule(
        name="disk.full", figure="disk_free_mib", at_least=64, level=EventLevel.ERROR,
        remedy="free space on the state directory's disk now: state can hardly be persisted",
    ),
    Rule(
        name="memory.low", figure="memory_available_mib", at_least=128,
        remedy="end other programs or serve a smaller artifact: a candidate needs room beside the incumbent",
    ),
    Rule(
        name="temperature.high", figure="temperature_c", at_most=85,
        remedy="cool the device: it is about to throttle, and latency will rise",
    ),
    Rule(
        name="temperature.critical", figure="temperature_c", at_most=97, level=EventLevel.ERROR,
        remedy="cool the device: it is about to shut down",
    ),
    Rule(
        name="buffer.filling", figure="buffer_used_fraction", at_most=0.8,
        remedy="restore the device's link: old windows are being merged",
    ),
    Rule(
        name="buffer.backlog", figure="buffer_waiting", at_most=5_000,
        remedy="look why the cloud has acknowledged nothing for so long",
    ),
    Rule(
        name="sqlite.version", figure="sqlite_version_number", at_least=SQLITE_FIXED, level=EventLevel.INFO,
        remedy="update SQLite to 3.51.3 or later; the agent stays clear of its WAL-reset bug by using one connection",
    ),
)  # fmt: skip
