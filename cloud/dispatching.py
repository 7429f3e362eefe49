"""The dispatcher: keeps the broker's work queue in step with the registry's open units of work.

Rules:
- The registry is the truth. Every open unit has its message in the queue, also while it is worked on; a
  unit that has ended has none. Whatever is missing or left over there is put right at each look.
- A unit whose worker was given up gets a fresh message, because the old one waits for the dead worker.
- Nothing here may end the dispatcher: it looks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from nats.aio.client import Client

from cloud.broker import connection, work_names
from cloud.broker.work_stream import WorkStream
from cloud.bus import Subscription
from cloud.context import Context
from cloud.errors import QueueError
from cloud.services import jobs, units
from fleet.registry.repositories import Work

LOOK_EVERY_S = 5.0
FULL_LOOK_EVERY = 6
COALESCE_S = 0.05
log = logging.getLogger(__name__)


class Dispatcher:
    """Runs until it is stopped."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._client = Client()
        self._lying: set[str] = set()
        self._prepared = False
        self._looks = 0
        # Heard from here on, so that what workers lose when they register is not missed.
        self._notes = context.bus.subscribe("job", "unit")
        self._task = asyncio.create_task(self._run(), name="dispatcher")

    @property
    def running(self) -> bool:
        """Whether it still looks for units."""
        return not self._task.done()

    async def stop(self) -> None:
        """Hand out no more."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._notes.close()
        await connection.close(self._client)

    async def _run(self) -> None:
        await asyncio.to_thread(jobs.adopt, self._context)
        route = connection.local_route(self._context.settings)
        await connection.connect(
            route, name="dispatcher", client=self._client, reconnected_cb=self._forget
        )
        stream = WorkStream(self._client, redeliver_s=self._context.settings.redeliver_s)
        lost: set[str] = set()
        while True:
            try:
                await self._look(stream, lost)
                lost.clear()
            except QueueError as error:
                self._prepared = False
                log.warning("%s", error)
            except Exception:  # whatever it was, the next look may go better
                self._prepared = False
                log.exception("the dispatcher stumbled")
            lost |= await _heard(self._notes)

    async def _forget(self) -> None:
        """The broker was away, and may have come back with less."""
        self._prepared = False

    async def _look(self, stream: WorkStream, lost: Iterable[str]) -> None:
        self._looks += 1
        silent = await asyncio.to_thread(units.lose_silent, self._context)
        wanted = await asyncio.to_thread(self._wanted)
        if not self._prepared:
            await stream.prepare()
        if not self._prepared or self._looks % FULL_LOOK_EVERY == 0:
            self._lying = await stream.lying()
            self._prepared = True
        again = {subject for subject, unit in wanted.items() if unit in {*silent, *lost}}
        for subject in (self._lying - set(wanted)) | (self._lying & again):
            await stream.take_out(subject)
            await stream.hint(unit=work_names.unit_of(subject))
            self._lying.discard(subject)
        for subject, unit in wanted.items():
            if subject not in self._lying:
                await stream.put(work_names.toolchain_of(subject), unit)
                self._lying.add(subject)

    def _wanted(self) -> dict[str, str]:
        """The subjects that should have a message, and whose."""
        with self._context.read() as session:
            found = Work(session).open_units()
        return {work_names.subject(it.toolchain, it.id): it.id for it in found}


async def _heard(notes: Subscription) -> set[str]:
    """Wait for something to do, a while at most; the units that lost their workers."""
    found = [await notes.get(timeout_s=LOOK_EVERY_S)]
    if found[0] is not None:
        await asyncio.sleep(COALESCE_S)
    while (note := await notes.get(timeout_s=0)) is not None:
        found.append(note)
    return {str(it.data["unit"]) for it in found if it is not None and it.topic == "unit"}
