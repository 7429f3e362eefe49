"""Runs jobs in forks of a process that has imported what they need, so that a child starts in milliseconds.

Executed as a script, with ``launch.py`` beside it and nothing but the standard library: ``forkserver.py MODULE...``.
Requests and answers are lines of JSON on standard input and output: ``{"module", "arguments", "folder",
"environment", "cpu_s", "data_bytes"}``, and ``{"status"}``, negative for a signal.

Rules:
- Each job is a process of its own, and what it leaves behind is killed, as `launch` does.
- Modules are imported one by one while there is nothing to do, and then what they list as ``PRELOAD``. One that
  cannot be imported is left to the job that needs it, which can say so.
- Closed standard input, or SIGTERM, ends the server and all below it: a caller that dies leaves nothing.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import traceback

import launch


def main() -> None:
    """Serve until standard input ends."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what modules print while they are imported goes to the log
    launch.adopt()
    todo = list(sys.argv[1:])
    while True:
        ready, _, _ = select.select([requests], [], [], 0 if todo else None)
        if not ready:
            todo += _import(todo.pop(0))
            continue
        line = _line(requests)
        if not line:
            return
        status = _run(json.loads(line), requests, answers)
        os.write(answers, json.dumps({"status": status}).encode() + b"\n")


def _import(name: str) -> list[str]:
    """Import a module; returns what it lists for the same."""
    try:
        return list(getattr(importlib.import_module(name), "PRELOAD", ()))
    except BaseException:  # noqa: BLE001 - the job that needs it will meet it again, and is judged
        traceback.print_exc()
        return []


def _line(requests: int) -> bytes:
    """One request; empty at the end."""
    parts = b""
    while not parts.endswith(b"\n"):
        part = os.read(requests, 1 << 16)
        if not part:
            return b""
        parts += part
    return parts


def _run(job: dict, requests: int, answers: int) -> int:  # type: ignore[type-arg]
    """Run a job in a fork; returns its status, negative for a signal."""
    gc.freeze()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    server = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(requests)
        os.close(answers)
        _job(job, server)
    signal.signal(signal.SIGTERM, lambda *_: launch.end(child, -signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([requests, ended], [], [])
    os.close(ended)
    if requests in ready:  # nothing is asked before the answer: the caller is gone
        launch.end(child, -signal.SIGTERM)
    # Not reaped before its group is killed: until then the number cannot be taken anew.
    end = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    launch.clear(child)
    code, status = end.si_code, end.si_status  # type: ignore[union-attr]  # None with WNOHANG only
    return status if code == os.CLD_EXITED else -status


def _job(job: dict, server: int) -> None:  # type: ignore[type-arg]
    """The fork: becomes the job, and ends."""
    status: object = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        launch.confine(job["cpu_s"], job["data_bytes"])
        if os.getppid() != server:  # it died before this fork asked to be told
            os._exit(1)
        os.chdir(job["folder"])
        log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(job["environment"])
        tempfile.tempdir = None
        sys.argv = [job["module"], *job["arguments"]]
        status = importlib.import_module(job["module"]).main() or 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    main()
