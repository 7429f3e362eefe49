"""Who wants to know what changed: publish and subscribe within the process.

Rules:
- The bus carries hints, never truth: whoever hears one reads the registry. Nothing is lost when a
  listener misses a message, because each one also looks for itself now and then.
- `publish` may be called from any thread and never blocks; a slow subscriber loses the oldest.

Topics: ``desired`` {device}, ``device`` {device}, ``window`` {device, model}, ``event`` {device},
``rollout`` {rollout}, ``job`` {job}, ``unit`` {unit} that lost its worker, ``worker`` {worker}, ``model`` {model, version}, ``release`` {release}.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

QUEUE_LENGTH = 1000


class Note(NamedTuple):
    """One message of the bus."""

    topic: str
    data: dict[str, Any]


Listener = Callable[[Note], None]


class Bus:
    """The bus of one process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []

    def publish(self, topic: str, data: dict[str, Any]) -> None:
        """Tell every listener; called after the commit of what it speaks of."""
        with self._lock:
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(Note(topic, data))

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` in the publisher's thread for each note; returns what ends that."""
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def subscribe(self, *topics: str) -> Subscription:
        """Notes for the running event loop; all topics when none is named. Close it in the end."""
        return Subscription(self, frozenset(topics))


class Subscription:
    """Notes of a bus as an async iterator of one event loop."""

    def __init__(self, bus: Bus, topics: frozenset[str]) -> None:
        self._topics = topics
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Note] = asyncio.Queue()
        self._end = bus.listen(self._hear)

    def _hear(self, note: Note) -> None:
        if self._topics and note.topic not in self._topics:
            return
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._put, note)

    def _put(self, note: Note) -> None:
        if self._queue.qsize() >= QUEUE_LENGTH:
            self._queue.get_nowait()
        self._queue.put_nowait(note)

    async def get(self, timeout_s: float | None = None) -> Note | None:
        """The next note; None when `timeout_s` seconds pass without one."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def __aiter__(self) -> AsyncIterator[Note]:
        while True:
            yield await self._queue.get()

    def close(self) -> None:
        """Hear no more."""
        self._end()
