"""What a worker and the cloud say to each other about a unit of work."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Who:
    """The worker that speaks: its name, and its process."""

    name: str
    session: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Which attempt at which unit a worker speaks of."""

    unit: str
    number: int
    who: Who


class Order(str, Enum):
    """What a worker shall do with a message that it was handed."""

    WORK = "work"
    LEAVE = "leave"
    DROP = "drop"


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The answer to a worker that would begin.

    Attributes:
        attempt: number of the attempt; 0 unless the order is to work.
        archive_sha256: the blob with the model folder.
    """

    order: Order
    unit: str
    attempt: int = 0
    job: str = ""
    model: str = ""
    version: str = ""
    targets: list[str] = field(default_factory=list)
    archive_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Handed:
    """What a worker hands in: the compile report, and the artifacts that it names as chosen."""

    report: dict[str, Any]
    files: list[Path]


def made_by(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The candidates of a checked report that became artifacts, each with its target."""
    return [
        (str(it["target"]), it[kind])
        for it in report["targets"]
        for kind in ("chosen", "fallback")
        if it.get(kind)
    ]
