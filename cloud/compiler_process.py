"""One run of the compiler in a process of its own.

Its command line is ``python -m compiler.service --folder DIR --out OUT --version V --target T ... [--figures FILE]``. On
standard output it writes one JSON object a line: ``{"event": "progress", "fraction": 0..1, "message"}``,
and before it ends badly ``{"event": "failed", "error": {"message", "retryable"}}``; what else it prints is
its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cloud.errors import CompileError, CompilerDiedError

MAX_S = 4 * 3600.0
END_GRACE_S = 5.0
_TAIL_LINES = 20
_LOG_LINES = 200
_LINE_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Request:
    """What to compile, and where the results go.

    Attributes:
        figures: what devices measured (``outrider/figures/1``), instead of estimates; None for nothing.
    """

    folder: Path
    out: Path
    version: str
    targets: tuple[str, ...]
    figures: Path | None = None

    def argv(self) -> list[str]:
        """The compiler's command line."""
        targets = [word for target in self.targets for word in ("--target", target)]
        measured = ["--figures", str(self.figures)] if self.figures else []
        return [
            sys.executable, "-m", "compiler.service", "--folder", str(self.folder),
            "--out", str(self.out), "--version", self.version, *targets, *measured,
        ]  # fmt: skip


class Progress(NamedTuple):
    """How far the compiler is: a share of one, and what it does."""

    fraction: float
    message: str


class CompilerProcess:
    """The process, from start to end."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._error = ""
        self._retryable = False

    @property
    def log(self) -> str:
        """The newest lines that it printed, what it said of its progress included."""
        return "\n".join(self._log)

    async def run(self, told: Callable[[Progress], Awaitable[None]]) -> None:
        """Run it to its end; `told` hears how far it is.

        Raises:
            CompileError: it failed, or took too long; the message says why.
            CompilerDiedError: it ended without saying why, or says that another try may go better.
        """
        process = await asyncio.create_subprocess_exec(
            *self._request.argv(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
            start_new_session=True,
            preexec_fn=_tie_to(os.getpid()),
        )
        try:
            async with asyncio.timeout(MAX_S):
                await self._listen(process, told)
                status = await process.wait()
        except TimeoutError:
            raise CompileError(f"the compiler took more than {MAX_S / 3600:.0f} h") from None
        finally:
            await _end(process)
        if status != 0 and self._error and not self._retryable:
            raise CompileError(self._error)
        if status != 0:
            raise CompilerDiedError(self._error or self._last_words(status))

    async def _listen(
        self, process: asyncio.subprocess.Process, told: Callable[[Progress], Awaitable[None]]
    ) -> None:
        if process.stdout is None:
            raise AssertionError("standard output is a pipe, see above")
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line longer than the limit was skipped
            if not line:
                return
            said = self._understand(line)
            if said is not None:
                await told(said)

    def _understand(self, line: bytes) -> Progress | None:
        try:
            document: Any = msgspec.json.decode(line)
        except msgspec.DecodeError:
            document = None
        if not isinstance(document, dict):
            text = line.decode("utf-8", "replace").rstrip()
            self._tail.append(text)
            self._log.append(text)
            return None
        error = document.get("error")
        if isinstance(error, dict):
            self._error = str(error.get("message", ""))
            self._retryable = error.get("retryable") is True
            self._log.append(f"failed: {self._error}")
        fraction = document.get("fraction")
        if not isinstance(fraction, int | float):
            return None
        said = Progress(float(fraction), str(document.get("message", "")))
        self._log.append(f"{said.fraction:4.0%}  {said.message}")
        return said

    def _last_words(self, status: int) -> str:
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return "\n".join([f"the compiler ended with {how}", *self._tail])


def _tie_to(parent: int) -> Callable[[], None]:
    """Let the child die with its parent, whatever kills the parent."""

    def tie() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


async def _end(process: asyncio.subprocess.Process) -> None:
    """End what is left of the process and of those it started."""
    for number, grace_s in ((signal.SIGTERM, END_GRACE_S), (signal.SIGKILL, END_GRACE_S)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        try:
            async with asyncio.timeout(grace_s):
                await process.wait()
                break
        except TimeoutError:
            continue
