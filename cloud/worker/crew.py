"""The worker: takes units of work from the queue, a few at a time, until it is told to stop.

Rules:
- It asks the queue for toolchains that its desk names, one after the other, whenever it has room; a hint
  wakes it, and without hints it asks every `ASK_EVERY_S`.
- A unit that is delivered again while it is under way here is not begun twice: the newer message replaces
  the older one.
- Papers are renewed in good time; a cloud or broker that is away is waited for, for ever.
- Asked to stop, it takes nothing more, gives what is under way `grace_s`, and hands back the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nats.errors

from cloud.errors import WorkerUnknownError
from cloud.work.messages import Begun, Order
from cloud.worker.desk import Desk, Papers
from cloud.worker.handout import Delivery, Handout
from cloud.worker.task import Task
from fleet.errors import OutriderError

ASK_EVERY_S = 2.0
RENEW_SHARE = 2 / 3
PATIENCE_S = 15.0
log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a worker works.

    Attributes:
        folder: where it works; what lies there is removed at the start.
        jobs: units at the same time.
        once: take one unit, then end.
    """

    folder: Path
    jobs: int = 1
    once: bool = False


class Crew:
    """A worker with its hands; `run` it once."""

    def __init__(self, desk: Desk, options: Options) -> None:
        self._desk = desk
        self._options = options
        self._papers: Papers | None = None
        self._handout = Handout(self._hinted)
        self._tasks: dict[str, Task] = {}
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._grace_s = 0.0
        self.taken = 0
        self.failed = 0

    @property
    def busy(self) -> int:
        """How many units are under way."""
        return len(self._tasks)

    @property
    def connected(self) -> bool:
        """Whether the queue lets it in now."""
        return self._papers is not None and self._handout.connected

    def stop(self, *, grace_s: float = 0.0) -> None:
        """Take nothing more; end after what is under way, or after `grace_s` seconds."""
        self._grace_s = grace_s
        self._stopping.set()
        self._work.set()

    async def run(self) -> None:
        """Work until `stop`, or after one unit when that was asked for.

        Raises:
            OutriderError: the cloud will not have this worker.
        """
        shutil.rmtree(self._options.folder, ignore_errors=True)
        self._options.folder.mkdir(parents=True)
        keeper = asyncio.create_task(self._keep_papers(), name="worker-papers")
        hands = [
            asyncio.create_task(self._hand(), name=f"worker-hand-{number}")
            for number in range(self._options.jobs)
        ]
        stopping = asyncio.create_task(self._until_grace_ends())
        try:
            done, _ = await asyncio.wait(
                (keeper, stopping, asyncio.gather(*hands)), return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                await each
        finally:
            for each in (*hands, keeper, stopping):
                each.cancel()
            await asyncio.gather(*hands, keeper, stopping, return_exceptions=True)
            await self._handout.close()

    async def _until_grace_ends(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self._grace_s)

    async def _keep_papers(self) -> None:
        while True:
            papers = await self._patiently(self._desk.register)
            if await self._connected(papers):
                self._papers = papers
                self._work.set()
                await asyncio.sleep(papers.lifetime_s * RENEW_SHARE)
            else:
                await asyncio.sleep(PATIENCE_S / 10)

    async def _connected(self, papers: Papers) -> bool:
        try:
            await self._handout.connect(papers)
        except (OSError, nats.errors.Error, TimeoutError) as error:
            log.warning(
                "the work queue at %s does not let this worker in: %r", papers.route.url, error
            )
            return False
        return True

    async def _hand(self) -> None:
        while not self._stopping.is_set():
            delivery = await self._next()
            if delivery is not None and await self._take(delivery) and self._options.once:
                return

    async def _next(self) -> Delivery | None:
        self._work.clear()
        if self._papers is not None:
            try:
                names = await asyncio.to_thread(self._desk.toolchains)
            except Exception:  # the registry may be busy; the next time may go better
                log.exception("cannot tell what there is to do")
                names = ()
            for name in names:
                if (delivery := await self._handout.ask(name)) is not None:
                    return delivery
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_EVERY_S):
                await self._work.wait()
        return None

    async def _take(self, delivery: Delivery) -> bool:
        """Begin and do what was delivered; False when there was nothing to do about it."""
        papers = self._papers
        if papers is None:
            raise AssertionError("nothing is asked for without papers")
        if (task := self._tasks.get(delivery.unit)) is not None:
            task.delivery = delivery
            await self._handout.keep(delivery)
            return False
        begun = await self._begin(delivery)
        if begun is None or begun.order is Order.LEAVE:
            await self._handout.later(delivery, papers.redeliver_s / 2)
            return False
        if begun.order is Order.DROP:
            await self._handout.done(delivery)
            return False
        await self._do(Task(self._desk, self._handout, papers, begun, delivery), begun)
        return True

    async def _begin(self, delivery: Delivery) -> Begun | None:
        try:
            return await asyncio.to_thread(self._desk.begin, delivery.unit)
        except WorkerUnknownError:
            raise
        except OutriderError as error:
            log.warning("%s cannot be begun: %s", delivery.unit, error)
            return None

    async def _do(self, task: Task, begun: Begun) -> None:
        what = f"{begun.model}@{begun.version} for {', '.join(begun.targets)}"
        log.info("took %s (%s, attempt %d)", what, begun.unit, begun.attempt)
        self._tasks[begun.unit] = task
        self.taken += 1
        try:
            await task.run(self._options.folder)
        except OutriderError:
            raise
        except (
            Exception
        ):  # whatever it was, the next unit may go better; this one is handed out again
            log.exception("%s stumbled", begun.unit)
            task.ended = "failed: the worker stumbled"
        finally:
            del self._tasks[begun.unit]
            self.failed += task.ended.startswith("failed")
            log.info("%s: %s", what, task.ended)

    def _hinted(self, hint: dict[str, Any]) -> None:
        task = self._tasks.get(str(hint.get("unit", "")))
        if task is not None:
            task.look()
        elif "toolchain" in hint:
            self._work.set()

    async def _patiently(self, call: Callable[[], T]) -> T:
        pause_s = 0.5
        while True:
            try:
                return await asyncio.to_thread(call)
            except OutriderError as error:
                if not error.retryable:
                    raise
                log.warning("waiting for the cloud: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(PATIENCE_S, pause_s * 2)
