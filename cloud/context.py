"""What every part of the cloud is handed: settings, registry, blobs, bus, clock, ids.

Rules:
- Services take time and ids from here and from nowhere else, so that the simulator can run them in
  virtual time over an in-memory registry.
- Notes for the bus go through `Unit.publish`, which sends them after the commit, never before it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session

from cloud.blobs import BlobStore, LocalBlobs
from cloud.bus import Bus
from cloud.settings import Settings
from fleet.registry import engine as registry


@dataclass
class Unit:
    """One transaction: its session, its moment, what to do at its end, and what to say once it is committed.

    Attributes:
        last: done in their order when all else is done, before the commit. What takes a lock that everybody
            needs waits for here, so that nobody holds it while waiting for another.
    """

    session: Session
    now: float
    notes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    last: list[Callable[[], object]] = field(default_factory=list)

    def publish(self, topic: str, **data: Any) -> None:
        """Send a note on the bus after the commit."""
        self.notes.append((topic, data))


@dataclass(frozen=True)
class Context:
    """The cloud's surroundings.

    Attributes:
        clock: seconds since the Unix epoch.
        ids: a fresh id at each call, matching ``[A-Za-z0-9_-]{1,64}`` and hard to guess.
    """

    settings: Settings
    engine: Engine
    blobs: BlobStore
    bus: Bus
    clock: Callable[[], float]
    ids: Callable[[], str]

    @contextmanager
    def unit(self) -> Iterator[Unit]:
        """A transaction that may write; commits at the end, then sends its notes. Never nest two."""
        with registry.writing(self.engine) as session:
            unit = Unit(session, self.clock())
            yield unit
            for act in unit.last:
                act()
        for topic, data in unit.notes:
            self.bus.publish(topic, data)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with registry.reading(self.engine) as session:
            yield session


def build(settings: Settings) -> Context:
    """The context of a real installation: real clock, real ids, registry migrated."""
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = registry.connect(settings.url)
    registry.migrate(engine)
    return Context(
        settings=settings,
        engine=engine,
        blobs=LocalBlobs(settings.path("blobs")),
        bus=Bus(),
        clock=time.time,
        ids=lambda: secrets.token_hex(8),
    )
