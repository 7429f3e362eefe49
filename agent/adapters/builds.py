"""The core's builds on the real device: one task per model, outcomes as events.

Rule: a build that was cancelled says nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agent.adapters import engines as cache
from agent.adapters.engines import Engines
from agent.adapters.store import Store
from agent.core import commands as cmd
from agent.core import events as ev
from fleet.errors import OutriderError

Post = Callable[[ev.Event], None]


class Builds:
    """The running builds.

    Args:
        engines: where engines are kept.
        store: where slots and records are.
        post: takes events.
    """

    def __init__(self, engines: Engines, store: Store, post: Post) -> None:
        self._engines, self._store, self._post = engines, store, post
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def take(self, command: cmd.Command) -> bool:
        """Start to carry out a command on a build; false when it is none."""
        if isinstance(command, cmd.Build):
            self._cancel(command.model)
            self._tasks[command.model] = asyncio.create_task(self._build(command))
        elif isinstance(command, cmd.CancelBuild):
            self._cancel(command.model)
        else:
            return False
        return True

    async def end(self) -> None:
        """End what still runs."""
        for model in list(self._tasks):
            self._cancel(model)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _cancel(self, model: str) -> None:
        task = self._tasks.pop(model, None)
        if task is not None and not task.done():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _build(self, command: cmd.Build) -> None:
        await asyncio.gather(*self._ending, return_exceptions=True)  # one process at a time
        try:
            made = await self._make(command)
        except OutriderError as error:
            self._fail(command, error.code, str(error), retryable=error.retryable)
        except OSError as error:
            self._fail(command, "disk.io", str(error), retryable=True)
        else:
            self._post(
                ev.Built(
                    model=command.model,
                    sha256=command.sha256,
                    engine=made.sha256,
                    detail=made.detail,
                    figures=made.figures,
                )
            )

    async def _make(self, command: cmd.Build) -> cache.Made:
        path = self._store.slot_path(command.model, command.slot)
        artifact = await asyncio.to_thread(
            cache.read, path, sha256=command.sha256, length_bytes=command.length_bytes
        )

        def tell(fraction: float, message: str) -> None:
            self._post(
                ev.BuildProgress(
                    model=command.model, sha256=command.sha256, fraction=fraction, message=message
                )
            )

        records = await asyncio.to_thread(self._store.load_models)
        return await self._engines.make(artifact, cache.engines_in_use(records), tell)

    def _fail(self, command: cmd.Build, code: str, detail: str, *, retryable: bool) -> None:
        self._post(
            ev.BuildFailed(
                model=command.model,
                sha256=command.sha256,
                code=code,
                detail=detail,
                retryable=retryable,
            )
        )
