"""Where a worker gets its papers and hands in its work: the port.

A desk's methods block; a worker calls them in threads. Each may raise a retryable error of ours when the
cloud cannot be reached, and a lasting one when the cloud will not have it.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from cloud.broker.connection import Route
from cloud.work.messages import Attempt, Begun, Handed, Who
from compiler.service import host


@dataclass(frozen=True, kw_only=True)
class Papers:
    """What a registered worker holds.

    Attributes:
        route: to the broker.
        inbox: prefix of the subjects that it may hear answers on.
        lifetime_s: after this it needs new ones.
        redeliver_s: a worker that is silent for so long is taken for dead.
    """

    who: Who
    route: Route
    inbox: str
    lifetime_s: float
    redeliver_s: float


class Desk(Protocol):
    """The cloud, as a worker sees it."""

    def register(self) -> Papers:
        """Get papers, or new ones."""

    def toolchains(self) -> Sequence[str]:
        """Those whose work this worker takes now."""

    def begin(self, unit: str) -> Begun:
        """Begin a unit that the queue handed out."""

    def advance(self, at: Attempt, *, progress: float, message: str, said: str) -> bool:
        """Say how far an attempt is; False when it shall stop."""

    def fetch(self, begun: Begun, into: Path) -> Path:
        """Write the model folder below `into`, which is empty; returns where ``outrider.toml`` is."""

    def measured(self, begun: Begun, into: Path) -> None:
        """Write what devices measured of the model to the file `into`."""

    def hand_in(self, at: Attempt, handed: Handed) -> None:
        """Hand in what an attempt made."""

    def fail(self, at: Attempt, *, message: str, retryable: bool, said: str) -> None:
        """Say that an attempt could not be done."""

    def hand_back(self, at: Attempt) -> None:
        """Give a unit back undone."""


def describe_host() -> dict[str, Any]:
    """What this machine is, for the report and the audit log."""
    return {
        **host.describe(),
        "node": platform.node(),
        "cores": psutil.cpu_count() or 0,
        "memory_mib": psutil.virtual_memory().total >> 20,
    }
