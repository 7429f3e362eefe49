"""The one thread on which a worker's model lives.

Rules:
- Jobs run one after another, in the order of arrival; the event loop never waits for one.
- What a job leaves to do afterwards (statistics) is done once its caller has been answered.
- The thread is a daemon thread: an inference that hangs does not keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Job:
    call: Callable[[], Any]
    after: Callable[[Any], None] | None
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]


class InferenceThread:
    """A thread with a queue."""

    def __init__(self) -> None:
        """Start the thread."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending = 0
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Jobs that have no answer yet, the running one included."""
        return self._pending

    @property
    def busy_s(self) -> float:
        """For how long the running job has been running; 0 when none is."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def run(self, call: Callable[[], T], *, after: Callable[[T], None] | None = None) -> T:
        """Run `call` on the thread and return what it returns; then, still there, give that to `after`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._pending += 1
        self._jobs.put(_Job(call, after, loop, done))
        try:
            return await asyncio.shield(done)
        finally:
            if done.done():
                self._pending -= 1
            else:  # the caller has gone; the job still takes its time
                done.add_done_callback(self._forget)

    def close(self) -> None:
        """Let the thread end after the jobs that wait; does not wait for it."""
        self._jobs.put(None)

    def _forget(self, done: asyncio.Future[Any]) -> None:
        self._pending -= 1
        done.exception()  # nobody asks any more

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._busy_since = time.monotonic()
            try:
                result, error = job.call(), None
            except Exception as caught:  # noqa: BLE001 - handed to whoever awaits the job
                result, error = None, caught
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
                job.loop.call_soon_threadsafe(_settle, job.done, result, error)
            if job.after is not None and error is None:
                _finish(job.after, result)
            self._busy_since = None


def _finish(after: Callable[[Any], None], result: Any) -> None:
    try:
        after(result)
    except Exception:  # noqa: BLE001 - statistics must not end the thread; told in the log
        _log.exception("what an answered request left to do has failed")


def _settle(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)
