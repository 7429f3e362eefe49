"""Runs a command under resource limits, and leaves nothing of it behind.

Executed as a script, with nothing but the standard library: ``launch.py CPU_S DATA_BYTES COMMAND...``.

Rules:
- It stays as the command's parent and adopts what the command's children leave behind, also those that
  moved to a session of their own; when the command ends, or at SIGTERM, all of them are killed.
- It ends as the command did: with its status, or by its signal.
- When its own parent dies, it gets SIGTERM, and so nothing outlives the caller.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FILE_BYTES = 8 << 30
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Start the command, wait, and clear up."""
    adopt()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        confine(int(sys.argv[1]), int(sys.argv[2]))
        os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - a list, no shell
    signal.signal(signal.SIGTERM, lambda *_: end(child, -signal.SIGTERM))
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    while True:
        pid, status = os.wait()
        if pid == child:
            end(child, os.waitstatus_to_exitcode(status))


def adopt() -> None:
    """Become the parent of whatever is orphaned below this process; nothing below dumps core."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _limit(resource.RLIMIT_CORE, 0, 0)


def confine(cpu_s: int, data_bytes: int) -> None:
    """In a fork: a group of its own, limits, and SIGKILL when the parent dies."""
    os.setpgid(0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The soft limit sends SIGXCPU, which says why; the hard one kills.
    _limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 5)
    _limit(resource.RLIMIT_DATA, data_bytes, data_bytes)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES, _FILE_BYTES)


def end(group: int, code: int) -> None:
    """Kill all that is left, then end with a status, or by a signal where `code` is negative."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    clear(group)
    if code >= 0:
        os._exit(code)
    # SIGKILL and SIGSTOP have no disposition to reset.
    with contextlib.suppress(OSError):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def clear(group: int) -> None:
    """Kill and reap all that is below this process."""
    # The group at one blow, which no fork outruns; then what moved to groups of its own.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    while found := _descendants():
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _reap()
    _reap()


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _descendants() -> list[int]:
    """Processes below this one."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 - pathlib would slow each start
        with contextlib.suppress(OSError):
            parents[int(name)] = _parent(name)
    found: list[int] = []
    fresh = {os.getpid()}
    while fresh:
        fresh = {pid for pid, parent in parents.items() if parent in fresh}
        found += fresh
    return found


def _parent(pid: str) -> int:
    """A process's parent; 0 for a zombie, which needs no killing. See proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat", errors="replace") as file:  # noqa: PTH123 - as above; ASCII
        state, parent = file.read().rpartition(")")[2].split()[:2]
    return 0 if state == "Z" else int(parent)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or keep the one that stands where it is tighter already."""
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main()
