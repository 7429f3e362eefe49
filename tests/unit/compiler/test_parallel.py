"""Work on several cores: results in order, and nothing left running when it is given up."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from compiler.service import parallel
from compiler.toolchains import process
from compiler.toolchains.process import Limits

LIMITS = Limits(wall_s=120, cpu_s=120, memory_mib=1024)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)


def child(folder: Path, code: str) -> process.Outcome:
    folder.mkdir()
    return process.run(
        [sys.executable, "-I", "-c", code],
        folder=folder,
        environment=process.child_environment(folder),
        limits=LIMITS,
    )


def children_are_gone(folder: Path) -> bool:
    left = [p for p in psutil.process_iter(["cwd"]) if str(folder) in str(p.info["cwd"])]
    return not left


def started(folders: list[Path]) -> bool:
    return all((folder / "started").exists() for folder in folders)


SLEEP = "open('started', 'w').close(); import time; time.sleep(100)"


def test_results_stand_in_the_order_of_the_items(tmp_path: Path) -> None:
    def one(number: int) -> str:
        outcome = child(
            tmp_path / str(number), f"import time; time.sleep({0.3 - number / 10}); print({number})"
        )
        return outcome.tail

    assert parallel.each(one, [0, 1, 2]) == ["0", "1", "2"]


def test_the_first_exception_ends_the_other_children(tmp_path: Path) -> None:
    def one(name: str) -> process.Outcome:
        if name == "good":
            return child(tmp_path / name, SLEEP)
        wait_for(lambda: started([tmp_path / "good"]))
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        parallel.each(one, ["good", "bad"])
    assert children_are_gone(tmp_path)


def test_an_interruption_ends_all_children(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]

    def interrupt(*_: object) -> None:
        if started(folders):
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            parallel.each(lambda folder: child(folder, SLEEP), folders)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert children_are_gone(tmp_path)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
