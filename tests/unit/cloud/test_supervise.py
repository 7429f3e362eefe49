"""Children are restarted, ended together, and never outlive their supervisor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cloud.errors import SupervisionError
from cloud.supervise import Restart, Spec, State, Supervisor

SLEEP = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)")
STUBBORN = (
    sys.executable,
    "-c",
    "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
)


def eventually(condition: Callable[[], object], what: str, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(pid_dir=tmp_path / "run") as made:
        yield made


def test_a_killed_child_is_started_again_and_its_pid_file_follows(
    supervisor: Supervisor, tmp_path: Path
):
    first = supervisor.start(Spec("a", SLEEP, tmp_path / "a.log"))
    assert first.pid is not None
    eventually(lambda: "up" in (tmp_path / "a.log").read_text(), "first life")
    os.kill(first.pid, signal.SIGKILL)
    eventually(lambda: supervisor.status("a").starts == 2, "second start")
    again = supervisor.status("a")
    assert again.pid not in {None, first.pid}
    assert again.exit_code == -signal.SIGKILL
    assert int((tmp_path / "run" / "a.pid").read_text()) == again.pid == supervisor.pids()["a"]
    eventually(lambda: (tmp_path / "a.log").read_text().count("up") == 2, "both lives in the log")


def test_delays_grow_while_a_child_keeps_dying(supervisor: Supervisor, tmp_path: Path):
    policy = Restart(first_s=0.05, max_s=0.4)
    supervisor.start(
        Spec("a", (sys.executable, "-c", "exit(3)"), tmp_path / "a.log", restart=policy)
    )
    began = time.monotonic()
    eventually(lambda: supervisor.status("a").starts >= 5, "five lives")
    assert time.monotonic() - began >= 0.05 + 0.1 + 0.2 + 0.4
    assert supervisor.status("a").exit_code == 3


def test_without_restart_an_ended_child_rests(supervisor: Supervisor, tmp_path: Path):
    spec = Spec("a", (sys.executable, "-c", ""), tmp_path / "a.log", restart=Restart(enabled=False))
    supervisor.start(spec)
    eventually(lambda: supervisor.status("a").state is State.EXITED, "end")
    assert supervisor.status("a").exit_code == 0
    assert supervisor.pids() == {}


def test_a_child_that_ignores_the_stop_signal_is_killed(supervisor: Supervisor, tmp_path: Path):
    started = supervisor.start(Spec("a", STUBBORN, tmp_path / "a.log", stop_timeout_s=0.2))
    eventually(lambda: "up" in (tmp_path / "a.log").read_text(), "handler installed")
    ended = supervisor.stop("a")
    assert ended.exit_code == -signal.SIGKILL
    assert started.pid is not None
    assert gone(started.pid)
    assert not (tmp_path / "run" / "a.pid").exists()


def test_what_a_child_leaves_behind_ends_with_it(supervisor: Supervisor, tmp_path: Path):
    script = "sleep 600 & echo $! > grandchild; wait"
    supervisor.start(Spec("a", ("/bin/sh", "-c", script), tmp_path / "a.log", cwd=tmp_path))
    path = tmp_path / "grandchild"
    eventually(lambda: path.exists() and path.read_text().strip(), "grandchild")
    grandchild = int(path.read_text())
    supervisor.stop("a")
    eventually(lambda: gone(grandchild), "end of the grandchild")


def test_close_ends_the_last_started_first(tmp_path: Path):
    ended: list[str] = []
    with Supervisor(
        on_change=lambda s: ended.append(s.name) if s.state is State.EXITED else None
    ) as supervisor:
        for name in "abc":
            supervisor.start(Spec(name, SLEEP, tmp_path / f"{name}.log"))
        pids = list(supervisor.pids().values())
    assert ended == ["c", "b", "a"]
    assert all(gone(pid) for pid in pids)


def test_children_die_when_their_supervisor_is_killed(tmp_path: Path):
    script = f"""
import sys, time
from pathlib import Path
from cloud.supervise import Spec, Supervisor
s = Supervisor(pid_dir=Path({str(tmp_path)!r}))
s.start(Spec("a", (sys.executable, "-c", "import time; time.sleep(600)"), Path({str(tmp_path / "a.log")!r})))
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        child = int((tmp_path / "a.pid").read_text())
        assert psutil.pid_exists(child)
        parent.kill()
    eventually(lambda: gone(child), "death of the orphan")


def test_mistakes_are_named(supervisor: Supervisor, tmp_path: Path):
    with pytest.raises(SupervisionError, match="cannot be started"):
        supervisor.start(Spec("a", ("/does/not/exist",), tmp_path / "a.log"))
    supervisor.start(Spec("a", SLEEP, tmp_path / "a.log"))
    with pytest.raises(SupervisionError, match="already"):
        supervisor.start(Spec("a", SLEEP, tmp_path / "a.log"))
    with pytest.raises(SupervisionError, match="no child is named 'b'"):
        supervisor.status("b")


@pytest.mark.timeout(60)
def test_children_are_watched_and_ended_although_the_folder_of_their_ids_is_gone(tmp_path: Path):
    with Supervisor(pid_dir=tmp_path / "run") as supervisor:
        first = supervisor.start(Spec("a", SLEEP, tmp_path / "logs" / "a.log"))
        assert first.pid is not None
        for folder in ("run", "logs"):
            shutil.rmtree(tmp_path / folder)
        os.kill(first.pid, signal.SIGKILL)
        eventually(lambda: supervisor.status("a").starts == 2, "a second start")
        second = supervisor.status("a").pid
    assert second is not None
    assert gone(second)
