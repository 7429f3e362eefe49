"""Warm child processes: forks that misbehave cost themselves, and a server holds nothing from one to the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from support.installation import eventually

from compiler.toolchains import forks
from compiler.toolchains.forks import Job, Kind
from compiler.toolchains.process import Limits, Outcome, child_environment

LIMITS = Limits(wall_s=60, cpu_s=60, memory_mib=512)

MODULE = """
    import os, sys, time
    from pathlib import Path

    COUNT = [0]

    def main():
        COUNT[0] += 1
        Path("parent").write_text(str(os.getppid()))
        Path("pid").write_text(str(os.getpid()))
        return eval(Path("code").read_text(), globals())
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs an expression in a fork, each in a folder of its own: ``1``, ``2``, ..."""
    script = tmp_path / "module.py"
    script.write_text(textwrap.dedent(MODULE))
    kind = Kind(
        command=(sys.executable, "-E", "-s"),
        modules=("module",),
        scripts=(("module.py", script),),
    )
    count = iter(range(1, 1000))

    def run(code: str, limits: Limits = LIMITS, module: str = "module") -> Outcome:
        folder = tmp_path / str(next(count))
        folder.mkdir()
        (folder / "code").write_text(code)
        environment = child_environment(folder)
        job = Job(module=module, folder=folder, environment=environment, limits=limits)
        return forks.run(kind, job)

    return run


def told(tmp_path: Path, number: int, name: str) -> str:
    return (tmp_path / str(number) / name).read_text()


def test_jobs_share_a_server_while_it_is_kept(ask, tmp_path: Path) -> None:
    with forks.kept():
        assert [ask("0").problem, ask("0").problem] == ["", ""]
    parents = [told(tmp_path, number, "parent") for number in (1, 2)]
    assert parents[0] == parents[1]
    assert told(tmp_path, 1, "pid") != told(tmp_path, 2, "pid")
    assert not psutil.pid_exists(int(parents[0]))
    assert ask("0").problem == ""
    assert not psutil.pid_exists(int(told(tmp_path, 3, "parent")))


def test_nothing_of_a_job_reaches_the_next(ask, tmp_path: Path) -> None:
    spoil = "[os.environ.update(SECRET='1'), os.chdir('/'), sys.path.clear(), COUNT.clear()] and 0"
    with forks.kept():
        assert ask(spoil).problem == ""
        look = "print(os.environ.get('SECRET'), os.getcwd(), os.environ['HOME'], len(COUNT), bool(sys.path))"
        found = ask(look)
    home = tmp_path / "2"
    assert found.tail == f"None {home} {home} 1 True"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("3", "ended with status 3"),
        ("sys.exit(4)", "ended with status 4"),
        ("os._exit(5)", "ended with status 5"),
        ("1 / 0", "ended with status 1"),
        ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
        ("os.abort()", "was killed by SIGABRT"),
        ("time.sleep(600)", "ran longer than 2 s and was stopped"),
        ("[0 for _ in iter(int, 1)]", "used more than 1 s of processor time and was stopped"),
        ("[bytearray(200 << 20), time.sleep(600)]", "used more than 128 MiB of memory"),
        ("bytearray(8 << 30)", "ended with status 1"),
        ("os.kill(os.getppid(), 9)", "was killed by SIGKILL"),
        ("os.close(1), os.write(2, b'junk')", "ended with status 1"),
    ],
)
def test_each_end_is_told_and_the_next_job_is_well(ask, code: str, problem: str) -> None:
    limits = Limits(
        wall_s=2 if "sleep(600)" in code else 60,
        cpu_s=1 if "iter" in code else 60,
        memory_mib=128 if "bytearray" in code else 512,
    )
    if "bytearray(200" in code:
        limits = Limits(wall_s=60, cpu_s=60, memory_mib=128)
    with forks.kept():
        assert ask("0").problem == ""
        assert problem in ask(code, limits).problem
        assert ask("print('well')").tail == "well"


def test_processor_time_is_counted_for_each_job_alone(ask) -> None:
    burn = "[t := time.process_time(), [0 for _ in iter(lambda: time.process_time() - t > 0.7, True)]] and 0"
    limits = Limits(wall_s=60, cpu_s=1, memory_mib=512)
    with forks.kept():
        assert [ask(burn, limits).problem for _ in range(3)] == ["", "", ""]


def test_what_a_job_leaves_behind_is_killed(ask, tmp_path: Path) -> None:
    leave = (
        "[p := __import__('subprocess').Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True), Path('left').write_text(str(p.pid))] and 0"
    )
    with forks.kept():
        assert ask(leave).problem == ""
        assert not psutil.pid_exists(int(told(tmp_path, 1, "left")))
        assert ask("0").problem == ""


def test_a_module_that_cannot_be_imported_is_the_jobs_to_tell(ask) -> None:
    with forks.kept():
        found = ask("0", module="no_such_module")
        assert found.problem == "ended with status 1"
        assert "No module named 'no_such_module'" in found.tail
        assert ask("0").problem == ""


def test_modules_list_what_else_is_imported_before_jobs(tmp_path: Path) -> None:
    (tmp_path / "listing.py").write_text("PRELOAD = ('missing_one', 'wanted')\n")
    wanted = "import os\nPID = os.getpid()\ndef main(): print(PID == os.getppid())\n"
    (tmp_path / "wanted.py").write_text(wanted)
    scripts = tuple((name, tmp_path / name) for name in ("listing.py", "wanted.py"))
    kind = Kind(command=(sys.executable, "-E", "-s"), modules=("listing",), scripts=scripts)

    def warm() -> bool:
        job = Job(module="wanted", folder=tmp_path, environment={}, limits=LIMITS)
        return forks.run(kind, job).tail == "True"

    with forks.kept():
        forks.expect(kind)
        eventually(warm, "what is listed is imported by the server")


def test_a_caller_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(
        "import os, time\ndef main():\n    open('pid', 'w').write(f'{os.getpid()} {os.getppid()}')\n    time.sleep(600)\n"
    )
    script = f"""
        import sys
        from pathlib import Path
        from compiler.toolchains import forks
        from compiler.toolchains.process import Limits
        here = Path({str(tmp_path)!r})
        kind = forks.Kind(command=(sys.executable,), modules=("sleeper",), scripts=(("sleeper.py", here / "sleeper.py"),))
        limits = Limits(wall_s=600, cpu_s=60, memory_mib=512)
        with forks.kept():
            forks.run(kind, forks.Job(module="sleeper", folder=here, environment={{}}, limits=limits))
    """
    caller = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    found = tmp_path / "pid"
    eventually(lambda: found.exists() and len(found.read_text().split()) == 2, "it runs")
    pids = [int(pid) for pid in found.read_text().split()]
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids), "nothing is left")


def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    kind = Kind(command=(str(tmp_path / "python"),), modules=())
    job = Job(module="x", folder=tmp_path, environment={}, limits=LIMITS)
    with forks.kept():
        forks.expect(kind)
        assert "could not be started" in forks.run(kind, job).problem
