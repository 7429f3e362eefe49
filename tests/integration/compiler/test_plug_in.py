"""A user's own target, recipe and toolchain: whole compiles through them, and every way they misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import model_folders, plug_in

from compiler.errors import BuildError
from compiler.toolchains import catalog, driver, install
from fleet.artifact import package

FILE = {"model.tflite": b"a LiteRT file"}
OPTIONS = {"cores": 2, "strip": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plug-in's environment is installed, once: it has no packages."""
    place = tmp_path_factory.mktemp("plug-in")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTRIDER_PROFILES", str(plug_in.write(place / "mine")))
        patch.setenv("OUTRIDER_TOOLCHAINS", str(place / "toolchains"))
        assert install.install(catalog.get("acme")) is True
    return place


@pytest.fixture
def mine(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plug-in's folder, fresh for each test, and a folder for what runs."""
    monkeypatch.setenv("OUTRIDER_PROFILES", str(plug_in.write(tmp_path / "mine")))
    monkeypatch.setenv("OUTRIDER_TOOLCHAINS", str(home / "toolchains"))
    (tmp_path / "work").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "work"))
    return tmp_path / "mine"


def finish() -> driver.Answer:
    return driver.call(catalog.get("acme"), "finish", files=FILE, options=OPTIONS)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def test_a_whole_plug_in_answers(mine: Path) -> None:
    found = finish()
    assert found.files["model"] == b"ACME" + (13).to_bytes(8, "little") + b"a LiteRT file"
    assert found.info["operators"] == {"acme-npu": 1}
    assert found.info["version"] == "1.4"


CHILDREN = """
for _ in range({count}):
    subprocess.Popen([sys.executable, "-c", "{code}"])
time.sleep(600)
"""
MISDEEDS = {
    "crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
    "crash in native code": ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV"),
    "memory, bit by bit": (
        "kept = []\nwhile True:\n    kept.append(bytearray(1 << 22)); time.sleep(0.001)",
        "used more than 96 MiB of memory and was stopped",
    ),
    "memory, at once": ("bytearray(8 << 30)", "MemoryError"),
    "memory, in children": (
        CHILDREN.format(count=4, code="import time; kept = bytearray(30 << 20); time.sleep(600)"),
        "used more than 96 MiB of memory and was stopped",
    ),
    "endless wait": ("time.sleep(600)", "ran longer than 3 s and was stopped"),
    "endless loop": ("while True:\n    pass", "used more than 2 s of processor time and was stopped"),
    "burning in children": (
        CHILDREN.format(count=3, code="while True: pass"),
        "used more than 2 s of processor time and was stopped",
    ),
    "fork bomb": (
        "while True:\n    os.fork()",
        "(started more than 256 processes|used more than .*) and was stopped|BlockingIOError",
    ),
    "junk with status 0": (
        "Path('answer.json').write_text('made it!'); os._exit(0)",
        "ended with status 0 and no usable answer",
    ),
    "nothing with status 0": ("os._exit(0)", "ended with status 0 and no usable answer"),
    "a status alone": ("os._exit(3)", "ended with status 3"),
    "an exception": ("raise ValueError('no such layer')", "ValueError: no such layer"),
    "an empty file": (
        "(outputs / 'm').touch(); return {'files': {'model': 'm'}}",
        "expected a non-empty file as 'model'",
    ),
    "no file": ("return {'files': {'model': 'm'}}", "found none under 'm'"),
    "a folder": (
        "(outputs / 'm').mkdir(); return {'files': {'model': 'm'}}",
        "expected a non-empty file as 'model'",
    ),
    "a link out of the folder": (
        "os.symlink('/etc/passwd', outputs / 'm'); return {'files': {'model': 'm'}}",
        "expected a non-empty file as 'model'",
    ),
    "a path out of the folder": (
        "return {'files': {'model': '../driver.py'}}",
        r"found none under '\.\./driver\.py'",
    ),
    "a pipe": (
        "os.mkfifo(outputs / 'm'); return {'files': {'model': 'm'}}",
        "expected a non-empty file as 'model'",
    ),
    "a broken import": ("import acme_missing", "ModuleNotFoundError: No module named 'acme_missing'"),
}  # fmt: skip


@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_a_misdeed_fails_that_call_with_its_reason_and_leaves_nothing(
    mine: Path, tmp_path: Path, misdeed: str
) -> None:
    body, message = MISDEEDS[misdeed]
    plug_in.write(mine, wall_s=3 if misdeed == "endless wait" else 120, cpu_s=2, memory_mib=96)
    if misdeed in {"burning in children", "fork bomb"}:
        plug_in.write(mine, wall_s=120, cpu_s=2, memory_mib=4096)
    plug_in.misbehave(mine, body)
    with pytest.raises(BuildError, match=message) as caught:
        finish()
    assert str(caught.value).startswith("acme finish")
    assert list((tmp_path / "work").iterdir()) == []
    assert not running(tmp_path / "work")
    # Nothing but that call: the next one answers.
    plug_in.write(mine)
    assert finish().info["version"] == "1.4"


def running(place: Path) -> list[int]:
    """Processes whose current folder lies, or lay, below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and alive(int(entry.name)):
            try:
                current = str((entry / "cwd").readlink())
            except OSError:
                continue
            if current.startswith(str(place)):
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("ending", ["return {}", "os._exit(1)", "time.sleep(600)"])
def test_no_child_is_left_behind_also_in_a_session_of_its_own(
    mine: Path, tmp_path: Path, ending: str
) -> None:
    plug_in.write(mine, wall_s=3)
    told = tmp_path / "pid"
    code = f"import os, time; open({str(told)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    plug_in.misbehave(
        mine,
        f"""
        subprocess.Popen([sys.executable, "-c", {code!r}], start_new_session=True)
        while not os.path.exists({str(told)!r}) or not open({str(told)!r}).read():
            time.sleep(0.01)
        {ending}
        """,
    )
    try:
        finish()
    except BuildError:
        assert ending != "return {}"
    assert not alive(int(told.read_text()))


def test_inputs_are_copies(mine: Path, tmp_path: Path) -> None:
    plug_in.misbehave(
        mine,
        """
        (inputs / "model.tflite").write_bytes(b"overwritten")
        (outputs / "m").write_bytes((inputs / "model.tflite").read_bytes())
        return {"files": {"model": "m"}}
        """,
    )
    assert finish().files == {"model": b"overwritten"}
    assert FILE == {"model.tflite": b"a LiteRT file"}


def test_when_the_compiler_is_killed_the_tool_ends_too(mine: Path, tmp_path: Path) -> None:
    told = tmp_path / "pid"
    plug_in.misbehave(mine, f"Path({str(told)!r}).write_text(str(os.getpid()))\ntime.sleep(600)")
    code = (
        "from compiler.toolchains import catalog, driver\n"
        f"driver.call(catalog.get('acme'), 'finish', files={FILE!r}, options={{}})"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], env=dict(os.environ))
    try:
        wait_for(lambda: told.exists() and told.read_text() != "")
    finally:
        caller.kill()
        caller.wait()
    wait_for(lambda: not alive(int(told.read_text())))


def outrider(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OUTRIDER_CACHE": str(place / "cache"), "COLUMNS": "200"}
    environment["OUTRIDER_COMPILE_KEY"] = str(place / "key.pem")
    return subprocess.run(
        [sys.executable, "-m", "fleet.cli.root", *arguments],
        cwd=place, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_the_commands_know_the_users_own(mine: Path, tmp_path: Path) -> None:
    checked = outrider(tmp_path, "target", "check", "mine/targets/acme-npu.toml", "--json")
    (found,) = json.loads(checked.stdout)
    assert found["toolchains"] == {"acme_litert_dynamic_wi8": "acme", "litert_fp32": "litert"}
    listed = json.loads(outrider(tmp_path, "toolchain", "list", "--json").stdout)
    assert {"acme", "vela", "rknn"} <= {row["name"] for row in listed}
    doctor = json.loads(outrider(tmp_path, "toolchain", "doctor", "acme", "--json").stdout)
    assert doctor == [{"name": "acme", "health": "well", "detail": "0 packages; acme_format 1.4"}]
    plug_in.misbehave(mine, "return {}")
    (mine / "toolchains/acme_format.py").write_text("import acme_missing")
    broken = outrider(tmp_path, "toolchain", "doctor", "acme", "--json")
    assert broken.returncode == 1
    assert "No module named 'acme_missing'" in json.loads(broken.stdout)[0]["detail"]
    recipe = mine / "recipes/acme.toml"
    recipe.write_text(recipe.read_text().replace('toolchain = "acme"', 'toolchain = "acne"'))
    wrong = outrider(tmp_path, "target", "check", "mine/targets/acme-npu.toml")
    assert wrong.returncode == 1
    assert "toolchain: expected one of acme, " in " ".join(wrong.stderr.split())


@pytest.mark.toolchain
@pytest.mark.slow
def test_a_model_compiles_through_a_users_own_and_survives_its_crash(
    home: Path, mine: Path, tmp_path: Path
) -> None:
    shipped = (
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "outrider/toolchains"
    )
    for toolchain in shipped.iterdir():
        place = home / "toolchains" / toolchain.name
        if toolchain.is_dir() and not place.exists():
            place.symlink_to(toolchain)
    model_folders.write(tmp_path / "tiny")
    done = outrider(tmp_path, "compile", "tiny", "--target", "acme-npu", "--out", "out", "--json")
    (target,) = json.loads(done.stdout)["targets"]
    chosen = target["chosen"]
    assert chosen["recipe"] == "acme_litert_dynamic_wi8"
    assert chosen["verdict"] == target["status"] == "unproven"
    assert chosen["runtime"] == "acme"
    assert set(chosen["tools"]) == {"acme", "litert"}
    gates = {gate["name"]: gate for gate in chosen["gates"]}
    assert gates["structure"]["passed"] is True
    assert gates["parity"]["passed"] is None
    assert gates["parity"]["stand_in"] == "model.tflite in litert"
    made = package.read((tmp_path / "out" / chosen["path"]).read_bytes())
    assert made.payload[:4] == b"ACME"
    assert made.manifest.runtime_version == "1.4"
    assert target["fallback"]["runtime"] == "litert"

    plug_in.misbehave(mine, "os.kill(os.getpid(), signal.SIGSEGV)")
    done = outrider(tmp_path, "compile", "tiny", "--target", "acme-npu", "--out", "out2", "--json")
    (target,) = json.loads(done.stdout)["targets"]
    assert target["chosen"] is None
    assert [c["reason"] for c in target["candidates"]] == ["acme finish was killed by SIGSEGV"]
    assert target["fallback"]["verdict"] == "accepted"
