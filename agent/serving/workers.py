"""`ProcessWorkers`: starts worker processes and speaks with them.

Rules:
- A worker that does not answer in time, answers junk, or runs one inference for too long is killed;
  `wait_exit` then returns, and says why.
- Whatever a worker does, the caller sees an error of ours, and no other worker notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from agent.errors import EngineMissingError, LoadError, RuntimeMissingError, WorkerLostError
from agent.serving import protocol
from agent.serving.channel import Channel
from agent.serving.port import Figures, SelfTest, Worker, WorkerSpec
from agent.serving.protocol import Answers, Failed, Order
from fleet.errors import OutriderError, WireError
from ota.errors import VerificationError

A = TypeVar("A", bound=protocol.Answer)
_RAISED = {
    kind.code: kind
    for kind in (EngineMissingError, LoadError, RuntimeMissingError, VerificationError)
}
_STDERR = 2
_START = (  # `-m` would look for packages in the current folder first, whatever lies there
    "import sys; sys.path = [folder for folder in sys.path if folder]; "
    "from agent.serving.worker import main; main()"
)


@dataclass(frozen=True)
class Timeouts:
    """How long a worker may take.

    Attributes:
        load_s, self_test_s, promote_s, figures_s, stop_s: for one order each.
        drain_idle_s: idle connections are kept so long while draining.
        drain_s: whatever is in flight then is cut.
        heartbeat_s: between two signs of life.
        silent_s: without a sign of life for so long, a worker is lost.
        inference_s: an inference that runs so long hangs.
    """

    load_s: float = 180.0
    self_test_s: float = 180.0
    promote_s: float = 10.0
    figures_s: float = 15.0
    stop_s: float = 8.0
    drain_idle_s: float = 5.0
    drain_s: float = 30.0
    heartbeat_s: float = 5.0
    silent_s: float = 30.0
    inference_s: float = 120.0


class ProcessWorkers:
    """See `agent.serving.port.Workers`."""

    def __init__(self, timeouts: Timeouts | None = None) -> None:
        """Workers with these timeouts."""
        self._timeouts = timeouts or Timeouts()

    async def start(self, spec: WorkerSpec) -> Worker:
        """See `agent.serving.port.Workers.start`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                _START,
                str(theirs.fileno()),
                str(os.getpid()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=_STDERR,  # native libraries print; the daemon's output is not theirs
            )
        except OSError as error:
            ours.close()
            raise WorkerLostError(f"cannot start a worker process: {error}") from None
        finally:
            theirs.close()
        worker = ProcessWorker(spec, process, Channel(ours, protocol.answers()), self._timeouts)
        try:
            await worker.load()
        except BaseException:
            await worker.stop()
            raise
        return worker


class ProcessWorker:
    """A worker process; see `agent.serving.port.Worker`."""

    def __init__(
        self,
        spec: WorkerSpec,
        process: asyncio.subprocess.Process,
        channel: Channel[Answers],
        timeouts: Timeouts,
    ) -> None:
        """Take over a process that has just been started."""
        self.spec = spec
        self.pid = process.pid
        self._process = process
        self._channel = channel
        self._timeouts = timeouts
        self._waiting: dict[int, asyncio.Future[Answers]] = {}
        self._last_id = 0
        self._serving = False
        self._killed_because = ""
        self._life = asyncio.create_task(self._live())
        self._heart: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Load the artifact; from then on, watch for signs of life."""
        await self._ask(
            lambda i: protocol.Load(id=i, spec=self.spec), protocol.Done, self._timeouts.load_s
        )
        self._heart = asyncio.create_task(self._beat())

    async def self_test(self) -> SelfTest:
        """See the port."""
        answer = await self._ask(
            lambda i: protocol.RunSelfTest(id=i), protocol.Tested, self._timeouts.self_test_s
        )
        return answer.outcome

    async def promote(self, listener: socket.socket) -> None:
        """See the port."""
        await self._ask(
            lambda i: protocol.Promote(id=i),
            protocol.Done,
            self._timeouts.promote_s,
            descriptor=listener.fileno(),
        )
        self._serving = True

    async def drain(self) -> None:
        """See the port."""
        times = self._timeouts
        await self._ask(
            lambda i: protocol.Drain(id=i, idle_s=times.drain_idle_s, limit_s=times.drain_s),
            protocol.Done,
            times.drain_s + times.silent_s,
        )

    async def take_figures(self) -> Figures:
        """See the port."""
        answer = await self._ask(
            lambda i: protocol.TakeFigures(id=i), protocol.Taken, self._timeouts.figures_s
        )
        return answer.figures

    async def stop(self) -> None:
        """See the port."""
        with contextlib.suppress(OSError):
            await self._channel.send(protocol.Stop(id=0))
        try:
            await asyncio.wait_for(asyncio.shield(self._life), self._timeouts.stop_s)
        except asyncio.TimeoutError:
            self._kill("it did not stop when told to")
            await asyncio.shield(self._life)

    async def wait_exit(self) -> str:
        """See the port."""
        await asyncio.shield(self._life)
        return self._why()

    async def _ask(
        self,
        order: Callable[[int], Order],
        kind: type[A],
        timeout_s: float,
        *,
        descriptor: int | None = None,
    ) -> A:
        """Send an order and wait for its answer.

        Raises:
            WorkerLostError: none came, or another kind of answer.
            LoadError, RuntimeMissingError, VerificationError: the worker said so.
        """
        if self._life.done():
            raise WorkerLostError(self._lost())
        self._last_id += 1
        future: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        message = order(self._last_id)
        try:
            with contextlib.suppress(OSError):  # it has gone: the future is failed by `_live`
                await self._channel.send(message, descriptor=descriptor)
            answer = await asyncio.wait_for(future, timeout_s)
        except asyncio.TimeoutError:
            self._kill(f"no answer to {type(message).__name__} in {timeout_s:g} s")
            await asyncio.shield(self._life)
            raise WorkerLostError(self._lost()) from None
        finally:
            self._waiting.pop(message.id, None)
        if isinstance(answer, Failed):
            raise _error(answer)
        if not isinstance(answer, kind):
            self._kill(f"expected {kind.__name__}, found {type(answer).__name__}")
            raise WorkerLostError(self._lost())
        return answer

    async def _live(self) -> None:
        """Take answers until the process has ended; then fail whoever still waits."""
        try:
            while (answer := await self._channel.receive()) is not None:
                future = self._waiting.get(answer.id)
                if future is not None and not future.done():
                    future.set_result(answer)
            await self._end_of_silence()
        except WireError as error:
            self._kill(f"it answered junk: {error}")
        await self._process.wait()
        if self._heart is not None:
            self._heart.cancel()
        self._channel.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(WorkerLostError(self._lost()))

    async def _end_of_silence(self) -> None:
        """The connection has ended: the process should too."""
        try:
            await asyncio.wait_for(self._process.wait(), self._timeouts.stop_s)
        except asyncio.TimeoutError:
            self._kill("it closed its control connection and went on")

    async def _beat(self) -> None:
        times = self._timeouts
        with contextlib.suppress(OutriderError):  # then the life has ended, and this with it
            while True:
                await asyncio.sleep(times.heartbeat_s)
                pong = await self._ask(lambda i: protocol.Ping(id=i), protocol.Pong, times.silent_s)
                if self._serving and pong.busy_s > times.inference_s:
                    self._kill(f"an inference had run for {pong.busy_s:.0f} s")
                    return

    def _kill(self, reason: str) -> None:
        self._killed_because = self._killed_because or reason
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _lost(self) -> str:
        return f"the worker of {self.spec.model} {self.spec.release} was lost: {self._why()}"

    def _why(self) -> str:
        code = self._process.returncode
        if code is None:
            ended = "it is being killed"
        elif code < 0:
            ended = f"signal {-code}"
        else:
            ended = f"exit {code}"
        return f"{ended} ({self._killed_because})" if self._killed_because else ended


def _error(answer: Failed) -> OutriderError:
    return _RAISED.get(answer.code, LoadError)(answer.text)
