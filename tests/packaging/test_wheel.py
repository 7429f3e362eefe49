"""What is shipped: the wheel's contents, what the base installs, and what a Jetson can install."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"agent", "cloud", "compiler", "fleet", "ota", "simulator"}

pytestmark = pytest.mark.slow


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    beside = Path(sys.prefix, "bin", "uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    assert found, "expected uv beside this Python, found none: set up with make"
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def base(wheel: Path, uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the base wheel alone."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    run(uv, "venv", "--quiet", "--python", sys.executable, folder)
    lock = ROOT / "requirements" / "run.lock"
    run(uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python", "-c", lock, wheel)
    return folder / "bin"


def test_wheel_holds_the_six_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert tops - info == PACKAGES
    assert len(info) == 1
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_wheel_holds_every_tracked_file_of_the_packages(wheel: Path) -> None:
    git = shutil.which("git")
    assert git
    tracked = {
        name
        for name in run(git, "ls-files", *sorted(PACKAGES)).splitlines()
        if (ROOT / name).is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        shipped = set(archive.namelist())
    assert tracked <= shipped


def test_base_is_the_agent_and_nothing_of_the_cloud(base: Path) -> None:
    program = (
        "import importlib.util as u, agent, agent.runtimes.registry\n"
        "heavy = ['fastapi', 'sqlmodel', 'sqlalchemy', 'pydantic', 'onnx', 'onnxruntime', 'ai_edge_litert', 'click']\n"
        "print([name for name in heavy if u.find_spec(name)])"
    )
    assert run(base / "python", "-c", program).strip() == "[]"


def test_base_command_line_says_what_to_install(base: Path) -> None:
    done = subprocess.run([base / "outrider"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'outrider[" in done.stderr


def test_base_agent_command_starts(base: Path) -> None:
    assert "enroll" in run(base / "outrider-agent", "--help")


@pytest.mark.parametrize("extras", [(), ("litert", "onnx")], ids=["base", "runtimes"])
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
def test_aarch64_wheels_resolve(uv: str, version: str, extras: tuple[str, ...]) -> None:
    """For JetPack 6 (Python 3.10, glibc 2.35) and 7, from wheels alone: nothing is built on a device."""
    chosen = [part for extra in extras for part in ("--extra", extra)]
    resolved = run(
        uv, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "pyproject.toml", *chosen,
        "--python-platform", "aarch64-manylinux_2_28", "--python-version", version,
        "--only-binary", ":all:",
    )  # fmt: skip
    names = {line.split("==")[0] for line in resolved.splitlines()}
    assert {"numpy", "msgspec", "cryptography", "tuf"} <= names
    assert not {"fastapi", "sqlmodel", "torch"} & names
