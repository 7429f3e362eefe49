"""Waiting until a supervised child is ready for use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from cloud.errors import SupervisionError
from cloud.supervise import State, Supervisor

POLL_S = 0.1
MAX_STARTS = 4
_LOG_LINES = 15


def wait_ready(
    supervisor: Supervisor,
    name: str,
    probe: Callable[[], bool],
    *,
    timeout_s: float = 60.0,
    stop: threading.Event | None = None,
) -> bool:
    """Ask `probe` until it says yes; False when `stop` was set before.

    Raises:
        SupervisionError: the child keeps dying, or is not ready in time; the message ends with the last
            lines of its log.
    """
    stop = stop or threading.Event()
    deadline = time.monotonic() + timeout_s
    while not stop.is_set():
        if probe():
            return True
        status = supervisor.status(name)
        given_up = status.starts >= MAX_STARTS and status.state is State.BACKING_OFF
        if given_up or time.monotonic() > deadline:  # only an ended life has said why
            raise SupervisionError(
                f"{name!r} is not ready after {status.starts} start(s); "
                f"the end of {status.log_path}:\n{_tail(status.log_path)}"
            )
        stop.wait(POLL_S)
    return False


def _tail(log: Path) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    except OSError as error:
        return f"({error})"
