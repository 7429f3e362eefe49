"""Supervised child processes: started, watched, restarted with backoff, ended together.

Rules:
- One thread of the supervisor's own starts and watches every child, because Linux delivers the
  parent-death signal when the *thread* that forked ends (prctl(2), ``PR_SET_PDEATHSIG``).
- A child never outlives its supervisor, not even when that is killed with SIGKILL.
- Each child leads a session of its own: Ctrl-C reaches the supervisor only, which then ends the
  children in reverse order of their start; what a child leaves behind in its group is killed.
- Standard output and error go to the child's log file, which is rotated once when it is large.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from cloud.errors import SupervisionError

_PR_SET_PDEATHSIG = 1
_POLL_INTERVAL_S = 0.05
_LOG_MAX_BYTES = 16 * 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


class State(str, Enum):
    """Where a child is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"
    EXITED = "exited"


@dataclass(frozen=True)
class Restart:
    """When a child that ended is started again.

    Attributes:
        enabled: False lets an ended child rest.
        first_s, max_s: the delay before the first restart, doubled each time up to the largest.
        healthy_after_s: a child that ran this long starts again with the first delay.
    """

    enabled: bool = True
    first_s: float = 0.2
    max_s: float = 10.0
    healthy_after_s: float = 10.0


@dataclass(frozen=True)
class Spec:
    """A child process.

    Attributes:
        env: added to the supervisor's own environment.
        stop_timeout_s: how long it may take to end after `stop_signal` before it is killed.
    """

    name: str
    argv: tuple[str, ...]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    restart: Restart = Restart()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 10.0


@dataclass(frozen=True)
class Status:
    """What a child does now.

    Attributes:
        pid: None while it does not run.
        starts: how often it was started.
        exit_code: of its last life; negative for a signal; None before the first end.
    """

    name: str
    state: State
    pid: int | None
    starts: int
    exit_code: int | None
    log_path: Path


Listener = Callable[[Status], None]


class Supervisor:
    """Runs children until it is closed; use it as a context manager.

    Args:
        pid_dir: where ``NAME.pid`` is kept while a child runs; None for nowhere.
        on_change: called from the supervisor's thread at each change of a child's state; it must be
            quick and must not call back into the supervisor's waiting methods.
    """

    def __init__(self, *, pid_dir: Path | None = None, on_change: Listener | None = None) -> None:
        self._pid_dir = pid_dir
        self._on_change = on_change
        self._children: dict[str, _Child] = {}
        self._changed = threading.Condition()
        self._closing = False
        if pid_dir is not None:
            pid_dir.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, spec: Spec) -> Status:
        """Start a child and return once it was started for the first time.

        Raises:
            SupervisionError: the name is taken, or the program cannot be executed.
        """
        child = _Child(spec)
        with self._changed:
            if self._closing:
                raise SupervisionError(f"child {spec.name!r}: the supervisor is closing")
            if spec.name in self._children:
                raise SupervisionError(
                    f"child {spec.name!r} is supervised already; choose another name"
                )
            self._children[spec.name] = child
            self._changed.notify_all()
            self._changed.wait_for(lambda: child.starts or child.failure)
            if child.failure is not None:
                del self._children[spec.name]
                raise SupervisionError(f"child {spec.name!r} cannot be started: {child.failure}")
            return child.status()

    def stop(self, name: str) -> Status:
        """End a child, kill it when it does not end in time, and forget it.

        Raises:
            SupervisionError: no child has that name.
        """
        with self._changed:
            child = self._child(name)
            child.stop_wanted = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: child.state is State.EXITED)
            self._children.pop(name, None)
            return child.status()

    def status(self, name: str) -> Status:
        """What a child does now.

        Raises:
            SupervisionError: no child has that name.
        """
        with self._changed:
            return self._child(name).status()

    def statuses(self) -> list[Status]:
        """All children, in the order of their start."""
        with self._changed:
            return [child.status() for child in self._children.values()]

    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now, by name."""
        return {s.name: s.pid for s in self.statuses() if s.pid is not None}

    def close(self) -> None:
        """End all children, the last one started first, and return when none is left."""
        for status in reversed(self.statuses()):
            with contextlib.suppress(SupervisionError):
                self.stop(status.name)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _child(self, name: str) -> _Child:
        child = self._children.get(name)
        if child is None:
            known = ", ".join(self._children) or "none"
            raise SupervisionError(f"no child is named {name!r}; supervised are: {known}")
        return child

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closing:
                    return
                told = [
                    child for child in list(self._children.values()) if child.advance(_monotonic())
                ]
                statuses = [child.status() for child in told]
                for status in statuses:
                    self._note_pid(status)
                if told:
                    self._changed.notify_all()
                else:
                    self._changed.wait(_POLL_INTERVAL_S)
            for status in statuses:
                if self._on_change is not None:
                    self._on_change(status)

    def _note_pid(self, status: Status) -> None:
        if self._pid_dir is None:
            return
        path = self._pid_dir / f"{status.name}.pid"
        with contextlib.suppress(
            OSError
        ):  # a full or vanished disk must not end the watch over children
            if status.pid is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(f"{status.pid}\n")


class _Child:
    """One child; `advance` takes every step that is due."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.starts = 0
        self.failure: OSError | None = None
        self.stop_wanted = False
        self._exit_code: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._delay_s = spec.restart.first_s
        self._due = 0.0

    def status(self) -> Status:
        """A snapshot."""
        pid = self._process.pid if self._process is not None else None
        spec = self.spec
        return Status(spec.name, self.state, pid, self.starts, self._exit_code, spec.log_path)

    def advance(self, now: float) -> bool:
        """Do what is due at `now` (monotonic seconds); True when the state changed."""
        if self.failure is not None or self.state is State.EXITED:
            return False
        if self._process is not None:
            return self._watch(self._process, now)
        if self.stop_wanted:
            return self._become(State.EXITED)
        return now >= self._due and self._spawn(now)

    def _watch(self, process: subprocess.Popen[bytes], now: float) -> bool:
        if _has_ended(process.pid):
            _kill_group(process.pid)  # before reaping: until then the number cannot be taken anew
            return self._ended(process.wait(), now)
        if self.stop_wanted and self.state is not State.STOPPING:
            self._due = now + self.spec.stop_timeout_s
            process.send_signal(self.spec.stop_signal)
            return self._become(State.STOPPING)
        if self.state is State.STOPPING and now >= self._due:
            _kill_group(process.pid)
        return False

    def _ended(self, code: int, now: float) -> bool:
        self._process, self._exit_code = None, code
        policy = self.spec.restart
        if self.stop_wanted or not policy.enabled:
            return self._become(State.EXITED)
        if now - self._started_at >= policy.healthy_after_s:
            self._delay_s = policy.first_s
        self._due = now + self._delay_s
        self._delay_s = min(policy.max_s, self._delay_s * 2)
        return self._become(State.BACKING_OFF)

    def _spawn(self, now: float) -> bool:
        try:
            self._process = _popen(self.spec)
        except OSError as error:
            if not self.starts:
                self.failure = error
                return True
            self._due = now + self._delay_s
            self._delay_s = min(self.spec.restart.max_s, self._delay_s * 2)
            return False
        self.starts += 1
        self._started_at = now
        return self._become(State.RUNNING)

    def _become(self, state: State) -> bool:
        self.state = state
        return True


def _popen(spec: Spec) -> subprocess.Popen[bytes]:
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if spec.log_path.stat().st_size > _LOG_MAX_BYTES:
            spec.log_path.replace(spec.log_path.with_suffix(spec.log_path.suffix + ".1"))
    parent = os.getpid()

    def tie_to_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    with spec.log_path.open("ab") as log:
        return subprocess.Popen(
            list(spec.argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **spec.env},
            cwd=spec.cwd,
            start_new_session=True,
            preexec_fn=tie_to_parent,  # noqa: PLW1509  one libc call and one comparison; nothing that takes a lock
        )


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _monotonic() -> float:
    return time.monotonic()
