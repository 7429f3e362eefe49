"""One unit of work in a worker's hands, from its folder to what is handed in.

Rules:
- The compiler runs as ``python -m compiler.service`` on a copy of the model folder; what it wrote counts
  only when it ends with status 0 and a report.
- While it works it says so, to the cloud and to the queue, several times within `redeliver_s`. A cloud that
  cannot be reached does not stop it: what it made is handed in when the link is back.
- Its folder is removed in the end, whatever the end is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cloud.compiler_process import CompilerProcess, Progress, Request
from cloud.errors import CompileError, InputError, WorkerUnknownError
from cloud.work.messages import Attempt, Begun, Handed, made_by
from cloud.worker.desk import Desk, Papers
from cloud.worker.handout import Delivery, Handout
from fleet.errors import OutriderError

BEATS = 4
"""How often a worker speaks within `redeliver_s`."""
TOLD_EVERY_S = 0.5
PATIENCE_S = 15.0
MAX_REPORT_BYTES = 16 << 20
log = logging.getLogger(__name__)

T = TypeVar("T")


class StoppedError(Exception):
    """The cloud wants this attempt to end: cancelled, or somebody else was first."""


class Task:
    """The unit, until it is handed in, given up or handed back."""

    def __init__(
        self, desk: Desk, handout: Handout, papers: Papers, begun: Begun, delivery: Delivery
    ) -> None:
        self._desk = desk
        self._handout = handout
        self._begun = begun
        self._beat_s = papers.redeliver_s / BEATS
        self.at = Attempt(unit=begun.unit, number=begun.attempt, who=papers.who)
        self.delivery = delivery
        self.ended = "handed back"
        self._said = Progress(0.0, "starting")
        self._fate = handout.done
        self._news = asyncio.Event()
        self._process: CompilerProcess | None = None

    def look(self) -> None:
        """Speak to the cloud at once: it may have decided something."""
        self._news.set()

    async def run(self, work_folder: Path) -> None:
        """Do it. Cancelling this hands the unit back."""
        try:
            work = Path(tempfile.mkdtemp(prefix=f"{self.at.unit}-", dir=work_folder))
        except OSError as error:
            await self._fail(f"no room to work: {error}", retryable=True)
            await self._fate(self.delivery)
            return
        try:
            await self._beside_heartbeats(work)
            await self._fate(self.delivery)
        except StoppedError:
            self.ended = "stopped by the cloud"
        except asyncio.CancelledError:
            await self._hand_back()
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)

    async def _beside_heartbeats(self, work: Path) -> None:
        main = asyncio.create_task(self._compile(work))
        heart = asyncio.create_task(self._beat())
        try:
            await asyncio.wait((main, heart), return_when=asyncio.FIRST_COMPLETED)
            if not main.done():
                heart.result()  # it ends early only by raising
            else:
                main.result()
        finally:
            for each in (main, heart):
                each.cancel()
            await asyncio.gather(main, heart, return_exceptions=True)

    async def _compile(self, work: Path) -> None:
        begun, out = self._begun, work / "out"
        (work / "model").mkdir()
        try:
            folder = await self._patiently(lambda: self._desk.fetch(begun, work / "model"))
            measured = work / "figures.json"
            await self._patiently(lambda: self._desk.measured(begun, measured))
            request = Request(
                folder=folder,
                out=out,
                version=begun.version,
                targets=tuple(begun.targets),
                figures=measured,
            )
            self._process = CompilerProcess(request)
            await self._process.run(self._hear)
            self._said = Progress(1.0, "handing in")
            handed = await asyncio.to_thread(read_output, out)
            await self._patiently(lambda: self._desk.hand_in(self.at, handed))
            self.ended = "done"
        except OutriderError as error:
            await self._fail(str(error), retryable=error.retryable)
        except OSError as error:
            await self._fail(f"no room to work: {error}", retryable=True)

    async def _fail(self, message: str, *, retryable: bool) -> None:
        self.ended = f"failed: {message.splitlines()[0] if message else ''}"
        said = self._log()
        try:
            await self._patiently(
                lambda: self._desk.fail(self.at, message=message, retryable=retryable, said=said)
            )
        except OutriderError as error:
            log.warning("%s: the failure could not be told: %s", self.at.unit, error)
            self._fate = self._leave
        else:
            self._fate = self._later if retryable else self._handout.done

    async def _later(self, delivery: Delivery) -> None:
        await self._handout.later(delivery, self._beat_s)

    async def _leave(self, delivery: Delivery) -> None:
        """The queue hands the unit out again by itself."""
        log.info("%s is left to the queue (%s)", delivery.unit, delivery.reply)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._tell()
            told_at = loop.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await self._news.wait()
                    # Compilers may say much; the cloud hears it twice a second.
                    await asyncio.sleep(max(0.0, told_at + TOLD_EVERY_S - loop.time()))
            self._news.clear()

    async def _tell(self) -> None:
        said, text = self._said, self._log()
        try:
            go_on = await asyncio.to_thread(
                lambda: self._desk.advance(
                    self.at, progress=said.fraction, message=said.message, said=text
                )
            )
        except WorkerUnknownError:
            raise
        except OutriderError as error:
            log.info("the cloud could not be told of %s: %s", self.at.unit, error)
            go_on = True
        if not go_on:
            raise StoppedError
        await self._handout.keep(self.delivery)

    async def _hear(self, said: Progress) -> None:
        self._said = said
        self._news.set()

    async def _hand_back(self) -> None:
        try:
            await asyncio.to_thread(self._desk.hand_back, self.at)
        except OutriderError as error:
            log.warning("%s could not be handed back: %s", self.at.unit, error)
        await self._handout.later(self.delivery, 0.0)

    async def _patiently(self, call: Callable[[], T]) -> T:
        """Call the desk until it answers; only what another try cannot mend is raised."""
        pause_s = TOLD_EVERY_S
        while True:
            try:
                return await asyncio.to_thread(call)
            except OutriderError as error:
                if not error.retryable:
                    raise
                log.info("waiting for the cloud: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(PATIENCE_S, pause_s * 2)

    def _log(self) -> str:
        return self._process.log if self._process is not None else ""


def read_output(out: Path) -> Handed:
    """What the compiler left in its output folder.

    Raises:
        CompileError: there is no report that can be read, or a file that it names is missing.
    """
    try:
        data = (out / "report.json").read_bytes()
        if len(data) > MAX_REPORT_BYTES:
            raise CompileError(
                f"expected a report of at most {MAX_REPORT_BYTES} bytes, found {len(data)}"
            )
        report: dict[str, Any] = msgspec.json.decode(data, type=dict)
        files = [out / str(it["path"]) for _, it in made_by(report)]
    except (OSError, msgspec.DecodeError, KeyError, TypeError, AttributeError, InputError) as error:
        raise CompileError(f"the compiler left no report that can be read: {error!r}") from None
    for file in files:
        if not file.resolve().is_relative_to(out.resolve()) or not file.is_file():
            raise CompileError(f"the compiler's report names {file.name!r}, which is not there")
    return Handed(report=report, files=files)
