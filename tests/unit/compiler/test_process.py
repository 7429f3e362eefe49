"""Child processes under limits: each way to misbehave ends that child and says why."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from compiler.toolchains import process
from compiler.toolchains.process import Limits, Outcome

LIMITS = Limits(wall_s=20, cpu_s=20, memory_mib=512)


def run(tmp_path: Path, script: str, limits: Limits = LIMITS) -> Outcome:
    return process.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        folder=tmp_path,
        environment=process.child_environment(tmp_path),
        limits=limits,
    )


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_child_that_ends_well(tmp_path: Path) -> None:
    found = run(tmp_path, "print('hello'); open('made', 'w').write('x')")
    assert found.problem == ""
    assert "hello" in found.tail
    assert (tmp_path / "made").read_text() == "x"


def test_a_status_is_told_with_the_last_lines(tmp_path: Path) -> None:
    found = run(tmp_path, "import sys; print('why it failed'); sys.exit(3)")
    assert found.problem == "ended with status 3"
    assert "why it failed" in found.tail


def test_a_crash_names_the_signal(tmp_path: Path) -> None:
    found = run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert found.problem == "was killed by SIGSEGV"


def test_a_hang_is_stopped_with_all_its_children(tmp_path: Path) -> None:
    script = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open("pid", "w").write(str(child.pid))
        time.sleep(600)
    """
    found = run(tmp_path, script, Limits(wall_s=2, cpu_s=20, memory_mib=512))
    assert found.problem == "ran longer than 2 s and was stopped"
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone(pid)


def test_a_busy_loop_runs_out_of_processor_time(tmp_path: Path) -> None:
    found = run(tmp_path, "while True: pass", Limits(wall_s=30, cpu_s=1, memory_mib=512))
    assert found.problem == "used more than 1 s of processor time and was stopped"


def test_memory_is_bounded(tmp_path: Path) -> None:
    script = """
        import time
        kept = []
        for _ in range(400):
            kept.append(b"x" * (1 << 20))
        time.sleep(600)
    """
    found = run(tmp_path, script, Limits(wall_s=30, cpu_s=20, memory_mib=128))
    assert found.problem == "used more than 128 MiB of memory and was stopped"


def test_a_sudden_jump_of_memory_is_refused_by_the_kernel(tmp_path: Path) -> None:
    found = run(tmp_path, "b'x' * (8 << 30)", Limits(wall_s=30, cpu_s=20, memory_mib=128))
    assert found.problem == "ended with status 1"
    assert "MemoryError" in found.tail


def test_the_users_settings_stay_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "secret")
    script = "import os; print(sorted(os.environ), os.environ['HOME'])"
    found = run(tmp_path, script)
    assert "SOME_TOKEN" not in found.tail
    assert str(tmp_path) in found.tail


def test_an_interrupted_caller_leaves_no_child(tmp_path: Path) -> None:
    script = f"""
        import os, signal, sys, threading, time
        from pathlib import Path
        from compiler.toolchains import process
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work = Path({str(tmp_path)!r})
        def interrupt():
            while not (work / "pid").exists() or not (work / "pid").read_text():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
        limits = process.Limits(wall_s=60, cpu_s=60, memory_mib=512)
        try:
            process.run([sys.executable, "-c", child], folder=work, environment=dict(os.environ), limits=limits)
        except KeyboardInterrupt:
            print("interrupted")
    """
    other = tmp_path / "outer"
    other.mkdir()
    found = process.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        folder=other,
        environment=dict(os.environ),
        limits=LIMITS,
    )
    assert "interrupted" in found.tail
    assert gone(int((tmp_path / "pid").read_text()))
