"""What the work queue is called in the broker: its stream, consumers and subjects.

Rules:
- A unit of work has one subject of its own, below that of the toolchain that it needs; so the stream can
  refuse a second message for it, and a consumer per toolchain hands out what its workers can do.
- Hints are heard by whoever listens and are never the truth: "there is work", "look at that unit".
"""

from __future__ import annotations

import re
from typing import Final

from cloud.errors import InputError

STREAM: Final = "OUTRIDER_JOBS"
ROOT: Final = "outrider.jobs"
HINTS: Final = "outrider.work"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def subject(toolchain: str, unit: str) -> str:
    """Where the one message of a unit of work lies."""
    return f"{ROOT}.{check(toolchain)}.{check(unit)}"


def consumer(toolchain: str) -> str:
    """Who hands out the units that need a toolchain."""
    return check(toolchain)


def consumed(toolchain: str) -> str:
    """The subjects of all units that need a toolchain."""
    return f"{ROOT}.{check(toolchain)}.*"


def inbox(worker: str) -> str:
    """The prefix of the subjects on which a worker gets its answers; nobody else hears them."""
    return f"_INBOX_{check(worker)}"


def check(token: str) -> str:
    """`token`, which can stand in a subject. Raises InputError."""
    if not _TOKEN.match(token):
        raise InputError(f"expected 1 to 64 of A-Z a-z 0-9 _ -, found {token!r}")
    return token


def toolchain_of(subject: str) -> str:
    """The toolchain that a unit's subject names."""
    return subject.split(".")[-2]


def unit_of(subject: str) -> str:
    """The unit that a subject names."""
    return subject.rsplit(".", maxsplit=1)[-1]
