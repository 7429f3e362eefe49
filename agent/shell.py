"""The shell: pumps events into the core, and has what it decides carried out.

Rule: the commands of one event are carried out in order; when the disk refuses one, the rest of its list
goes back to the core before anything else is handled.
"""

from __future__ import annotations

import asyncio
from collections import deque

from agent.adapters import clock
from agent.core import events as ev
from agent.core.commands import Command
from agent.core.core import Core
from agent.effects import Effects
from agent.errors import DiskError

STOP_S = 20.0


class Shell:
    """Runs one device's core; make it inside the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._next_up: deque[ev.Event] = deque()
        self._wall = clock.WallWatch()

    def post(self, event: ev.Event) -> None:
        """Hand an event over, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def run(self, core: Core, effects: Effects, booted: ev.Booted) -> None:
        """Run until the core has stopped, or has not in `STOP_S` after it was told to."""
        self._next_up.append(booted)
        give_up: float | None = None
        while not core.stopped and (give_up is None or clock.monotonic() < give_up):
            event = await self._next(core.deadline(), give_up)
            if isinstance(event, ev.Stopping) and give_up is None:
                give_up = clock.monotonic() + STOP_S
            self._carry_out(core.handle(event, clock.monotonic()), effects)
            effects.handled(event)

    async def _next(self, *deadlines: float | None) -> ev.Event:
        if self._next_up:
            return self._next_up.popleft()
        if self._wall.jumped():
            return ev.WallClock(wall=clock.wall())
        if not self._queue.empty():
            return self._queue.get_nowait()
        times = [time for time in deadlines if time is not None]
        wait_s = max(0.0, min(times) - clock.monotonic()) if times else None
        try:
            return await asyncio.wait_for(self._queue.get(), wait_s)
        except asyncio.TimeoutError:
            return ev.Tick()

    def _carry_out(self, commands: list[Command], effects: Effects) -> None:
        for i, command in enumerate(commands):
            try:
                effects.do(command)
            except DiskError as error:
                refused = ev.StoreFailed(code=error.code, detail=str(error), dropped=commands[i:])
                self._next_up.append(refused)
                return
