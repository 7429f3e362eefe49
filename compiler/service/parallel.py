"""Work on several cores at once, with children that end when the work is interrupted.

Rules:
- Threads only wait for child processes; the children do the work.
- The first exception, or an interruption, ends every child that is under way, then is raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from compiler.toolchains import process

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Apply a function to every item, as many at once as there are cores.

    Args:
        function: runs a child process and waits for it.
        items: its arguments.

    Returns:
        The results in the order of the items.
    """
    if len(items) < 2 or cores() < 2:
        return [function(item) for item in items]
    with process.Company() as company, ThreadPoolExecutor(cores()) as pool:
        futures = [pool.submit(company.joined, function, item) for item in items]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            company.disband()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def both(one: Callable[[], T], other: Callable[[], R]) -> tuple[T, R]:
    """Two pieces of work at once, where there are cores for them."""
    found: list[Any] = each(lambda piece: piece(), [one, other])
    return found[0], found[1]
