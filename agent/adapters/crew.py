"""The core's workers on real processes: commands on one worker one after the other, outcomes as events.

Rules:
- A worker is known by the core's number; what is asked of one that is gone is answered as lost.
- Each model has one listening socket for as long as the daemon runs, and one port for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from agent.adapters.listeners import Listeners, url_of
from agent.adapters.store import Store
from agent.core import commands as cmd
from agent.core import events as ev
from agent.errors import WorkerLostError
from agent.serving.port import Worker, Workers, WorkerSpec
from fleet.artifact.manifest import Feature
from fleet.errors import ManifestError, OutriderError

Post = Callable[[ev.Event], None]


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How workers load what they run.

    Attributes:
        threads, runtime_wrapper: of each worker's runtime.
        engine_path: where an engine lies that this device built, by its sha256.
        device_key: public key of the device in PEM, which attests such engines.
    """

    threads: int
    runtime_wrapper: str
    engine_path: Callable[[str], Path]
    device_key: bytes


class Crew:
    """The running workers.

    Args:
        workers: starts processes.
        store: where slots are.
        sockets: the models' listening sockets.
        post: takes events.
        loading: how workers load what they run.
    """

    def __init__(
        self, workers: Workers, store: Store, sockets: Listeners, post: Post, *, loading: Loading
    ) -> None:
        self._workers, self._store, self._sockets, self._post = workers, store, sockets, post
        self._loading = loading
        self._hands: dict[int, _Hand] = {}

    def take(self, command: cmd.Command) -> bool:
        """Start to carry out a command on a worker; false when it is none."""
        if isinstance(command, cmd.StartWorker):
            hand = _Hand(command.worker, self._post)
            self._hands[command.worker] = hand
            hand.add(lambda: self._start(hand, command))
            hand.begin()
        elif isinstance(command, cmd.TestWorker):
            self._add(command.worker, self._test)
        elif isinstance(command, cmd.Promote):
            self._add(command.worker, lambda hand: self._promote(hand, command.model))
        elif isinstance(command, cmd.Drain):
            self._add(command.worker, lambda hand: hand.get().drain())
        elif isinstance(command, cmd.TakeFigures):
            self._add(command.worker, self._figures)
        elif isinstance(command, cmd.StopWorker):
            self._add(command.worker, self._stop)
        else:
            return False
        return True

    async def end(self) -> None:
        """Stop what is left, whatever it is doing."""
        hands = list(self._hands.values())
        self._hands.clear()
        await asyncio.gather(*(hand.cancel() for hand in hands))

    def _add(self, worker: int, act: Callable[[_Hand], Awaitable[None]]) -> None:
        hand = self._hands.get(worker)
        if hand is None:
            self._post(ev.WorkerExited(worker=worker, reason="it was gone already"))
        else:
            hand.add(lambda: act(hand))

    async def _start(self, hand: _Hand, command: cmd.StartWorker) -> None:
        loading = self._loading
        spec = WorkerSpec(
            model=command.model,
            release=command.release,
            path=self._store.slot_path(command.model, command.slot),
            sha256=command.sha256,
            length_bytes=command.length_bytes,
            threads=loading.threads,
            runtime_wrapper=loading.runtime_wrapper,
            engine=loading.engine_path(command.engine) if command.engine else None,
            device_key=loading.device_key,
        )
        hand.worker = await self._workers.start(spec)
        features = await asyncio.to_thread(self._features, command)
        hand.watch()
        self._post(ev.WorkerReady(worker=command.worker, features=features))

    def _features(self, command: cmd.StartWorker) -> list[Feature]:
        try:
            return self._store.manifest(command.model, command.slot).features
        except ManifestError:
            return []

    async def _test(self, hand: _Hand) -> None:
        result = await hand.get().self_test()
        self._post(ev.SelfTested(worker=hand.number, result=result))

    async def _promote(self, hand: _Hand, model: str) -> None:
        listener = self._sockets.open(model)
        await hand.get().promote(listener)
        self._post(ev.Promoted(worker=hand.number, url=url_of(listener)))

    async def _figures(self, hand: _Hand) -> None:
        figures = await hand.get().take_figures()
        self._post(ev.FiguresTaken(worker=hand.number, figures=figures))

    async def _stop(self, hand: _Hand) -> None:
        reason = "it never ran"
        if hand.worker is not None:
            hand.unwatch()
            await hand.worker.stop()
            reason = await hand.worker.wait_exit()
        self._hands.pop(hand.number, None)
        self._post(ev.WorkerExited(worker=hand.number, reason=reason))
        hand.finish()


class _Hand:
    """One worker and what is to be done with it."""

    def __init__(self, number: int, post: Post) -> None:
        self.number = number
        self.worker: Worker | None = None
        self._post = post
        self._todo: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    def get(self) -> Worker:
        """The worker's process.

        Raises:
            WorkerLostError: it never started.
        """
        if self.worker is None:
            raise WorkerLostError("the worker did not start")
        return self.worker

    def add(self, act: Callable[[], Awaitable[None]]) -> None:
        """Do this after what was asked before."""
        self._todo.put_nowait(act)

    def begin(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._run())

    def finish(self) -> None:
        """Nothing more will come."""
        self._todo.put_nowait(None)

    def watch(self) -> None:
        """Tell when the process ends by itself."""
        self._watch = asyncio.create_task(self._tell_exit(self.get()))

    def unwatch(self) -> None:
        """Its end is expected."""
        if self._watch is not None:
            self._watch.cancel()

    async def cancel(self) -> None:
        """End at once."""
        self.unwatch()
        tasks = [task for task in (self._task, self._watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.worker is not None:
            await self.worker.stop()

    async def _run(self) -> None:
        while (act := await self._todo.get()) is not None:
            try:
                await act()
            except OutriderError as error:
                self._post(ev.WorkerFailed(worker=self.number, code=error.code, detail=str(error)))

    async def _tell_exit(self, worker: Worker) -> None:
        reason = await worker.wait_exit()
        self._post(ev.WorkerExited(worker=self.number, reason=reason))
