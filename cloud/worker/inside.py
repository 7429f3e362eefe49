"""The cloud's own worker: the same crew on the same queue, in the cloud's process."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from cloud.context import Context
from cloud.worker.crew import Crew, Options
from cloud.worker.local_desk import LocalDesk
from compiler.toolchains import catalog, install

RESTART_S = 2.0
log = logging.getLogger(__name__)


def installed() -> list[str]:
    """The toolchains that are installed on this host."""
    return [name for name in catalog.names() if install.is_installed(catalog.get(name))]


class InsideWorker:
    """Works until it is stopped; what is under way then is handed back."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._options = Options(
            folder=context.settings.path("work", "compile"), jobs=context.settings.worker_jobs
        )
        self._crew = self._new()
        self._task = asyncio.create_task(self._run(), name="inside-worker")

    @property
    def running(self) -> bool:
        """Whether it still takes work."""
        return not self._task.done()

    async def stop(self) -> None:
        """Hand back what is under way, and end."""
        self._crew.stop()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._crew.run()
            except Exception:  # another registration of its name, a full disk: it starts again
                log.exception("the cloud's own worker ended; it is started again")
            await asyncio.sleep(RESTART_S)
            self._crew = self._new()

    def _new(self) -> Crew:
        return Crew(LocalDesk(self._context, installed), self._options)
