"""Child processes that cannot take the compiler, or the host, down with them.

Rules:
- A child runs below a launcher, which adopts and kills all that the child started when it ends, breaks a
  limit, or when the caller is interrupted, also what moved to a session of its own.
- Wall time, and resident memory, processor time and number of all processes together, are watched from
  outside; the kernel limits each one's processor time, data size (far above the watched limit, against a
  sudden jump) and size of files.
- Children of a `Company` end together: when it is disbanded, each waiting thread ends its own.
- Its output goes to a file; the last lines are kept for the message.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypeVar

import psutil

LAUNCHER: Final = Path(__file__).with_name("launch.py")
_POLL_S: Final = 0.05
_MEMORY_POLL_S: Final = 0.25
_DATA_FACTOR: Final = 4
_TAIL_BYTES: Final = 4096
_MAX_PROCESSES: Final = 256
_CLEARING_S: Final = 10.0


T = TypeVar("T")
R = TypeVar("R")
_thread = threading.local()


class DisbandedError(RuntimeError):
    """A thread's child was ended because the work that it belongs to was given up."""


class Company:
    """Threads that wait for children which are ended together."""

    def __init__(self) -> None:
        """Of no threads yet."""
        self._over = threading.Event()

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs."""
        self.disband()

    def disband(self) -> None:
        """Let every thread end its child and raise `DisbandedError`."""
        self._over.set()

    def joined(self, function: Callable[[T], R], item: T) -> R:
        """Call `function` in this thread as a member."""
        _thread.over = self._over
        try:
            return function(item)
        finally:
            del _thread.over


def nothing() -> None:
    """What is done while nobody looks."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a child may use: seconds of wall and processor time, MiB of resident memory."""

    wall_s: float
    cpu_s: float
    memory_mib: int

    @property
    def data_bytes(self) -> int:
        """What the kernel lets one process have, against a sudden jump."""
        return self.memory_mib * _DATA_FACTOR << 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a child ended.

    Attributes:
        problem: empty when it ended with status 0 within its limits; else why not, in words.
        tail: the last lines of its output.
    """

    problem: str
    tail: str
    wall_s: float
    peak_memory_mib: float


def run(
    command: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    limits: Limits,
    look: Callable[[], None] = nothing,
) -> Outcome:
    """Run a command until it ends or breaks a limit.

    Args:
        command: a program's path and its arguments.
        folder: its current folder; its output becomes ``log.txt`` there.
        environment: all of its environment.
        limits: what it may use.
        look: called every now and then while it runs.
    """
    arguments = [str(int(limits.cpu_s)), str(limits.data_bytes), *command]
    log = folder / "log.txt"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), *arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def wait(seconds: float) -> int | None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(seconds)
            return None

        try:
            problem, peak = watch(process.pid, wait, limits=limits, look=look)
        finally:
            clear(process)
    return Outcome(
        problem=problem,
        tail=tail(log),
        wall_s=time.monotonic() - started,
        peak_memory_mib=peak / (1 << 20),
    )


def child_environment(work: Path, *, path: Sequence[Path] = ()) -> dict[str, str]:
    """A small environment: nothing of the user's settings, home and temporary files in `work`."""
    (work / "tmp").mkdir(exist_ok=True)
    kept = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TZ")
    return {
        "PATH": os.pathsep.join([*map(str, path), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(work),
        "TMPDIR": str(work / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        **{name: os.environ[name] for name in kept if name in os.environ},
    }


def python_environment(work: Path) -> dict[str, str]:
    """As `child_environment`, for a child that imports this project."""
    found = child_environment(work)
    if "PYTHONPATH" in os.environ:
        found["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return found


def watch(
    parent: int,
    wait: Callable[[float], int | None],
    *,
    limits: Limits,
    look: Callable[[], None] = nothing,
    used_s: float = 0.0,
) -> tuple[str, float]:
    """Wait for the end or for a broken limit; returns the problem and the peak memory in bytes.

    Args:
        parent: process id of what the child runs below, which itself is not counted.
        wait: for so many seconds; returns the child's status, negative for a signal, or None.
        limits: of all below `parent`.
        look: called every now and then.
        used_s: processor time that earlier children of `parent` have used.
    """
    started = time.monotonic()
    peak, next_look = 0.0, 0.0
    over: threading.Event | None = getattr(_thread, "over", None)
    while True:
        if over is not None and over.is_set():
            raise DisbandedError("the work was given up")
        status = wait(_POLL_S)
        if status is not None:
            return _ending(status, limits), peak
        now = time.monotonic()
        if now - started > limits.wall_s:
            return f"ran longer than {limits.wall_s:g} s and was stopped", peak
        if now >= next_look:
            next_look = now + _MEMORY_POLL_S
            look()
            use = _use(parent)
            peak = max(peak, use.resident_bytes)
            problem = _excess(use, limits, used_s)
            if problem:
                return problem, peak


@dataclass(frozen=True, kw_only=True)
class _Use:
    """What all processes below a launcher use together."""

    resident_bytes: float = 0.0
    cpu_s: float = 0.0
    processes: int = 0


def _use(pid: int) -> _Use:
    """The launcher itself is not counted, but for the processor time of those that it has reaped."""
    try:
        top = psutil.Process(pid)
        times = top.cpu_times()
        below = top.children(recursive=True)
    except psutil.Error:
        return _Use()
    resident, cpu_s = 0, times.children_user + times.children_system
    for process in below:
        with contextlib.suppress(psutil.Error):
            resident += process.memory_info().rss
            cpu_s += sum(process.cpu_times()[:4])
    return _Use(resident_bytes=float(resident), cpu_s=cpu_s, processes=len(below))


def used_s(parent: int) -> float:
    """Processor time in seconds of what a process has had run below it, and has reaped."""
    try:
        times = psutil.Process(parent).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.children_user + times.children_system)


def _excess(use: _Use, limits: Limits, used_before_s: float) -> str:
    if use.resident_bytes > limits.memory_mib << 20:
        return f"used more than {limits.memory_mib} MiB of memory and was stopped"
    if use.cpu_s - used_before_s > limits.cpu_s:
        return _cpu_problem(limits)
    if use.processes > _MAX_PROCESSES:
        return f"started more than {_MAX_PROCESSES} processes and was stopped"
    return ""


def _cpu_problem(limits: Limits) -> str:
    return f"used more than {limits.cpu_s:g} s of processor time and was stopped"


def _ending(status: int, limits: Limits) -> str:
    if status == 0:
        return ""
    if status > 0:
        return f"ended with status {status}"
    if -status == signal.SIGXCPU:
        return _cpu_problem(limits)
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def clear(process: subprocess.Popen[bytes]) -> None:
    """Have a launcher kill all that is below it; do it from here where it does not answer."""
    if process.poll() is not None:
        return
    below = []
    with contextlib.suppress(psutil.Error):
        below = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_CLEARING_S)
        return
    process.kill()
    for one in below:
        with contextlib.suppress(psutil.Error):
            one.kill()
    process.wait()


def tail(log: Path) -> str:
    """The last lines of a log."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    return "\n".join([line for line in lines if line.strip()][-12:])
