"""The runner of compile jobs: one at a time, each in a process of its own.

Rules:
- The compiler runs as ``python -m compiler.service`` on a copy of the model folder and says how far it is
  as lines of JSON; what it wrote counts only when it ends with status 0 and a report.
- It dies with the cloud, also when the cloud is killed; the job is then queued again at the next start,
  and what was left in the work folder is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from pathlib import Path

import msgspec

from cloud.bus import Subscription
from cloud.compiler_process import CompilerProcess, Progress, Request
from cloud.context import Context
from cloud.errors import CompileError
from cloud.services import artifacts, figures, jobs, models, results
from cloud.services.artifacts import Prepared
from cloud.services.results import Named
from fleet.errors import OutriderError
from fleet.registry.repositories import Models
from fleet.registry.tables import Job

LOOK_EVERY_S = 5.0
log = logging.getLogger(__name__)


class CompileRunner:
    """Works off the queue until it is stopped."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._root = context.settings.path("work", "compile")
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True)
        self._task = asyncio.create_task(self._run(), name="compile-runner")

    @property
    def running(self) -> bool:
        """Whether it still looks for jobs."""
        return not self._task.done()

    async def stop(self) -> None:
        """End the job that is under way; the next start takes it up again."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        subscription = self._context.bus.subscribe("job")
        try:
            await asyncio.to_thread(jobs.requeue, self._context)
            while True:
                await self._next(subscription)
        finally:
            subscription.close()

    async def _next(self, subscription: Subscription) -> None:
        try:
            job = await asyncio.to_thread(jobs.take, self._context)
            if job is None:
                await subscription.get(timeout_s=LOOK_EVERY_S)
            else:
                await self._work(job)
        except Exception:  # whatever it was, the queue goes on
            log.exception("the compile runner stumbled")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _work(self, job: Job) -> None:
        work = Path(tempfile.mkdtemp(prefix=f"{job.id}-", dir=self._root))
        try:
            out = work / "out"
            folder = await asyncio.to_thread(self._unpack, job, work / "model")
            measured = work / "figures.json"
            await asyncio.to_thread(figures.write, self._context, job.model, measured)
            request = Request(
                folder=folder,
                out=out,
                version=job.version,
                targets=tuple(job.targets),
                figures=measured,
            )
            await CompilerProcess(request).run(lambda said: self._advance(job, said))
            await asyncio.to_thread(self._enter, job, out)
        except OutriderError as error:
            await asyncio.to_thread(jobs.fail, self._context, job.id, str(error))
        except OSError as error:
            await asyncio.to_thread(jobs.fail, self._context, job.id, f"no room to work: {error}")
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _unpack(self, job: Job, into: Path) -> Path:
        with self._context.read() as session:
            version = Models(session).version(job.model, job.version)
        into.mkdir()
        return models.unpack(self._context, version, into)

    async def _advance(self, job: Job, said: Progress) -> None:
        await asyncio.to_thread(
            jobs.advance, self._context, job.id, progress=said.fraction, message=said.message
        )

    def _enter(self, job: Job, out: Path) -> None:
        try:
            report = msgspec.json.decode((out / "report.json").read_bytes(), type=dict)
            named = results.named(report)
        except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            raise CompileError(f"the compiler left no report that can be read: {error!r}") from None
        jobs.finish(self._context, job.id, report=report, built=self._prepare(named, out))

    def _prepare(self, named: list[Named], out: Path) -> list[Prepared]:
        for file in (out / each.path for each in named):
            if not file.resolve().is_relative_to(out.resolve()) or not file.is_file():
                raise CompileError(f"the compiler's report names {file.name!r}, which is not there")
        return [
            artifacts.prepare(self._context, (out / each.path).read_bytes(), fallback=each.fallback)
            for each in named
        ]
