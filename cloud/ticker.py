"""What the cloud does by itself: timeouts, metadata near its expiry, campaigns, audit checkpoints, deltas.

Rule: what takes minutes (deltas of a new release) has a task of its own, so that no timeout waits for it.
"""

from __future__ import annotations

import asyncio
import logging

from cloud.audit import checkpoints
from cloud.bus import Subscription
from cloud.context import Context
from cloud.services import campaigns, engines, proving, rollouts, trust, ways

REFRESH_EVERY_S = 3600.0
LOOK_FOR_PAIRS_EVERY_S = 300.0
log = logging.getLogger(__name__)


class Ticker:
    """Calls the services about once a second, in a thread, until it is stopped."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="ticker")
        self._pairs = asyncio.create_task(self._build_ways(), name="ways")

    async def stop(self) -> None:
        """End after the call that is under way."""
        self._stopping.set()
        await asyncio.gather(self._task, self._pairs)

    @property
    def running(self) -> bool:
        """Whether it still ticks."""
        return not self._task.done() and not self._pairs.done()

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

    async def _build_ways(self) -> None:
        releases = self._context.bus.subscribe("release")
        try:
            while not self._stopping.is_set():
                try:
                    built = await asyncio.to_thread(ways.build_next, self._context)
                except Exception:  # whatever it was, it is tried again
                    log.exception("a delta could not be built")
                    built = None
                if built is None:
                    await self._until_released(releases)
        finally:
            releases.close()

    async def _until_released(self, releases: Subscription) -> None:
        for _ in range(int(LOOK_FOR_PAIRS_EVERY_S)):
            if self._stopping.is_set() or await releases.get(timeout_s=1.0) is not None:
                return


async def _sleep(stopping: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return
