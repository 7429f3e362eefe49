"""The desk of the cloud's own worker: the services, without a network between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from cloud.broker import connection
from cloud.context import Context
from cloud.services import figures, folders, units, workers
from cloud.services.workers import OWN_NAME, Introduction
from cloud.work.messages import Attempt, Begun, Handed, Who
from cloud.worker.desk import Papers, describe_host
from fleet.registry.repositories import Work

FOR_EVER_S = 365 * 86400.0


class LocalDesk:
    """The cloud's own worker, in its process.

    It takes what its toolchains can do, and besides, so that no job waits for nobody, what no other worker
    that was heard of lately could do better; recipes without their toolchain are then skipped, and say so.
    """

    def __init__(self, context: Context, installed: Callable[[], Sequence[str]]) -> None:
        self._context = context
        self._installed = installed
        self._who = Who(name=OWN_NAME, session="")

    def register(self) -> Papers:
        """Take the cloud's own place."""
        given = Introduction(
            name=OWN_NAME,
            session=self._who.session,
            toolchains=list(self._installed()),
            host=describe_host(),
            version=version("outrider"),
        )
        with self._context.unit() as unit:
            row = workers.introduce(unit, given, ids=self._context.ids, token="", by="cloud")
        self._who = Who(name=OWN_NAME, session=row.session)
        settings = self._context.settings
        return Papers(
            who=self._who,
            route=connection.local_route(settings),
            inbox="_INBOX",
            lifetime_s=FOR_EVER_S,
            redeliver_s=settings.redeliver_s,
        )

    def toolchains(self) -> Sequence[str]:
        """What is installed, and what waits for nobody else."""
        with self._context.read() as session:
            waiting = {it.toolchain for it in Work(session).open_units() if it.state == "queued"}
        if not waiting:
            return ()
        elsewhere = workers.served_elsewhere(self._context, but=OWN_NAME)
        return sorted(waiting & set(self._installed()) | (waiting - elsewhere))

    def begin(self, unit: str) -> Begun:
        """Begin a unit."""
        return units.begin(self._context, unit, self._who)

    def advance(self, at: Attempt, *, progress: float, message: str, said: str) -> bool:
        """Note how far an attempt is."""
        return units.advance(self._context, at, progress=progress, message=message, said=said)

    def fetch(self, begun: Begun, into: Path) -> Path:
        """Unpack the stored folder."""
        folders.extract(self._context.blobs.path(begun.archive_sha256), into)
        return folders.root_of(into)

    def measured(self, begun: Begun, into: Path) -> None:
        """Write what the registry knows."""
        figures.write(self._context, begun.model, into)

    def hand_in(self, at: Attempt, handed: Handed) -> None:
        """Enter the results."""
        units.hand_in(self._context, at, handed)

    def fail(self, at: Attempt, *, message: str, retryable: bool, said: str) -> None:
        """Note the failure."""
        units.fail(self._context, at, message=message, retryable=retryable, said=said)

    def hand_back(self, at: Attempt) -> None:
        """Queue the unit again."""
        units.hand_back(self._context, at)
