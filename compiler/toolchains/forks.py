"""Child processes that start warm: forks of servers that have imported what jobs of a kind need.

Rules:
- A job has the limits, the folder and the ending of `process.run`: a crash, a broken limit or an interruption
  costs that job, and the next one gets another server.
- Servers are kept between `kept()`'s beginning and end, and end with it; without it each job has its own.
- A server runs one job at a time, and holds nothing of one for the next.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, cast

from compiler.toolchains import process
from compiler.toolchains.process import LAUNCHER, Limits, Outcome

SERVER: Final = Path(__file__).with_name("forkserver.py")
_MOST_IDLE: Final = 4
"""Of one kind; a server holds some hundred MiB of imported modules."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What a server is started with.

    Attributes:
        command: the interpreter and its flags.
        modules: imported before it forks, in this order.
        scripts: laid into its folder, from which it imports, too; file name to script.
        version: tells apart kinds whose scripts have the same names.
        environment: makes the server's environment, given its folder.
    """

    command: tuple[str, ...]
    modules: tuple[str, ...]
    scripts: tuple[tuple[str, Path], ...] = ()
    version: str = ""
    environment: Callable[[Path], dict[str, str]] = field(
        default=process.child_environment, compare=False
    )


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a fork runs: the ``main`` of a module, with arguments, in a folder.

    Attributes:
        environment: set over the server's own.
    """

    module: str
    arguments: Sequence[str] = ()
    folder: Path
    environment: Mapping[str, str]
    limits: Limits


class _Servers:
    """Those that have nothing to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Kind, list[_Server]] = {}
        self._users = 0

    def use(self, change: int) -> None:
        """Count who keeps servers; the last one ends them."""
        with self._lock:
            self._users += change
            left = [] if self._users else [one for many in self._idle.values() for one in many]
            if not self._users:
                self._idle.clear()
        for server in left:
            server.close()

    def expect(self, kind: Kind) -> None:
        """Have one of a kind, if servers are kept."""
        with self._lock, contextlib.suppress(OSError):  # who needs it will be told
            if self._users and not self._idle.get(kind):
                self._idle[kind] = [_Server(kind)]

    def take(self, kind: Kind) -> _Server:
        """One of a kind, until it is given back or closed."""
        with self._lock:
            idle = self._idle.get(kind)
            if idle:
                return idle.pop()
        return _Server(kind)

    def give(self, server: _Server) -> None:
        """Take one back, or end it."""
        with self._lock:
            idle = self._idle.setdefault(server.kind, []) if self._users else None
            if idle is not None and len(idle) < _MOST_IDLE and server.is_free:
                idle.append(server)
                return
        server.close()


_servers = _Servers()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Keep servers from job to job."""
    _servers.use(1)
    try:
        yield
    finally:
        _servers.use(-1)


def expect(kind: Kind) -> None:
    """Start a server of a kind that will be needed, so that its imports are done meanwhile."""
    _servers.expect(kind)


def run(kind: Kind, job: Job, look: Callable[[], None] = process.nothing) -> Outcome:
    """Run a job until it ends or breaks a limit.

    Args:
        kind: of the server that forks.
        job: what to run; its output becomes ``log.txt`` in its folder.
        look: called every now and then while it runs.
    """
    try:
        server = _servers.take(kind)
    except OSError as error:
        return Outcome(
            problem=f"could not be started: {error}", tail="", wall_s=0.0, peak_memory_mib=0.0
        )
    try:
        return server.run(job, look)
    finally:
        _servers.give(server)


class _Server:
    """One process that forks.

    Attributes:
        is_free: whether it may be given another job.
    """

    def __init__(self, kind: Kind) -> None:
        self.kind, self.is_free = kind, True
        self._place = tempfile.TemporaryDirectory(prefix="outrider-fork-")
        folder = Path(self._place.name)
        for name, script in ((SERVER.name, SERVER), (LAUNCHER.name, LAUNCHER), *kind.scripts):
            (folder / name).write_bytes(script.read_bytes())
        self._log = folder / "log.txt"
        try:
            self._process = self._started(folder)
        except OSError:
            self._place.cleanup()
            raise
        self._pipes = (
            cast("IO[bytes]", self._process.stdin),
            cast("IO[bytes]", self._process.stdout),
        )

    def _started(self, folder: Path) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [*self.kind.command, str(folder / SERVER.name), *self.kind.modules],
                cwd=folder,
                env=self.kind.environment(folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                bufsize=0,
            )

    def run(self, job: Job, look: Callable[[], None]) -> Outcome:
        """Have a job run."""
        self.is_free = False
        started, used_s = time.monotonic(), process.used_s(self._process.pid)
        problem, peak = process.watch(
            self._process.pid,
            self._asked(job),
            limits=job.limits,
            look=look,
            used_s=used_s,
        )
        log = job.folder / "log.txt"
        return Outcome(
            problem=problem,
            tail=process.tail(log if log.is_file() else self._log),
            wall_s=time.monotonic() - started,
            peak_memory_mib=peak / (1 << 20),
        )

    def close(self) -> None:
        """End it, and what runs below it."""
        process.clear(self._process)
        for pipe in self._pipes:
            pipe.close()
        self._place.cleanup()

    def _asked(self, job: Job) -> Callable[[float], int | None]:
        """Send a job; returns what waits for its status."""
        stdin, stdout = self._pipes
        request = {
            "module": job.module,
            "arguments": list(job.arguments),
            "folder": str(job.folder),
            "environment": dict(job.environment),
            "cpu_s": int(job.limits.cpu_s),
            "data_bytes": job.limits.data_bytes,
        }
        with contextlib.suppress(BrokenPipeError):  # it is gone, as its end will tell
            stdin.write(json.dumps(request).encode() + b"\n")

        def wait(seconds: float) -> int | None:
            if not select.select([stdout], [], [], seconds)[0]:
                return None
            line = stdout.readline()
            if not line:
                return self._process.wait() or 1
            self.is_free = True
            return int(json.loads(line)["status"])

        return wait
