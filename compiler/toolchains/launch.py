"""Runs a command under resource limits, as a child that does not outlive its parent.

Executed as a script, with nothing but the standard library: ``launch.py CPU_S DATA_BYTES COMMAND...``.
Limits are set here rather than between fork and exec of the caller, which may have threads.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the limits and become the command."""
    cpu_s, data_bytes = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The soft limit sends SIGXCPU, which says why; the hard one kills.
    _limit(resource.RLIMIT_CPU, cpu_s, cpu_s + 5)
    _limit(resource.RLIMIT_DATA, data_bytes, data_bytes)
    _limit(resource.RLIMIT_CORE, 0, 0)
    os.execv(sys.argv[3], sys.argv[3:])  # noqa: S606 - a list, no shell


def _limit(kind: int, soft: int, hard: int) -> None:
    """Set a limit, or keep the one that stands where it is tighter already."""
    ceiling = resource.getrlimit(kind)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(kind, (soft, hard))


if __name__ == "__main__":
    main()
