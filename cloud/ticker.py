"""What time alone makes the cloud do: timeouts, metadata that nears its expiry, campaigns, audit checkpoints."""

from __future__ import annotations

import asyncio
import logging

from cloud.audit import checkpoints
from cloud.context import Context
from cloud.services import campaigns, engines, proving, rollouts, trust

REFRESH_EVERY_S = 3600.0
log = logging.getLogger(__name__)


class Ticker:
    """Calls the services about once a second, in a thread, until it is stopped."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="ticker")

    async def stop(self) -> None:
        """End after the call that is under way."""
        self._stopping.set()
        await self._task

    @property
    def running(self) -> bool:
        """Whether it still ticks."""
        return not self._task.done()

    async def _run(self) -> None:
        refreshed = looked = signed = float("-inf")
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            try:
                await asyncio.to_thread(rollouts.tick, self._context)
                await asyncio.to_thread(proving.tick, self._context)
                await asyncio.to_thread(engines.tick, self._context)
                if loop.time() - looked > campaigns.LOOK_EVERY_S:
                    await asyncio.to_thread(campaigns.look, self._context)
                    looked = loop.time()
                if loop.time() - signed > checkpoints.EVERY_S:
                    await asyncio.to_thread(checkpoints.make, self._context)
                    signed = loop.time()
                if loop.time() - refreshed > REFRESH_EVERY_S:
                    await asyncio.to_thread(trust.refresh, self._context)
                    refreshed = loop.time()
            except Exception:  # whatever it was, the next tick tries again
                log.exception("a tick failed")
            await _sleep(self._stopping, self._context.settings.tick_s)


async def _sleep(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
