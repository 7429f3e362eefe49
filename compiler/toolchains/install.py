"""Installing toolchains: isolated environments, from lock files with hashes.

Rules:
- One folder per content of the locks: ``NAME-DIGEST``. It counts as installed only once its marker
  stands in it, which is written last; what an interrupted install left is removed by the next.
- Two processes never install the same toolchain at once.
- What the user supplies is never touched: it is looked for, its packages are listed, no more.
- No index is named here: `uv` or `pip` use whatever the user configured, and hashes decide.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from compiler.errors import ToolchainError, ToolchainMissingError
from compiler.toolchains.catalog import Toolchain

MARKER: Final = "outrider-toolchain.json"
_TIMEOUT_S: Final = 1800
_ANY_PYTHON: Final = "3.13"
"""What `uv` is told to resolve for where a package's metadata refuse the Python that it works on."""

_LIST_PACKAGES: Final = """
import importlib.metadata, json
found = importlib.metadata.distributions()
print(json.dumps({d.metadata["Name"]: d.version for d in found}))
"""

Say = Callable[[str], None]


def root() -> Path:
    """Where toolchains are installed: ``OUTRIDER_TOOLCHAINS``, else below the user's cache folder."""
    chosen = os.environ.get("OUTRIDER_TOOLCHAINS")
    if chosen:
        return Path(chosen).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "outrider" / "toolchains"


def folder(toolchain: Toolchain) -> Path:
    """The folder of this very content, installed or not."""
    return root() / f"{toolchain.name}-{toolchain.lock_sha256[:12]}"


def python(toolchain: Toolchain) -> Path:
    """The interpreter of an installed toolchain.

    Raises:
        ToolchainMissingError: it is not installed, or not supplied.
    """
    if not is_installed(toolchain):
        raise ToolchainMissingError(absence(toolchain))
    if toolchain.supplied is not None:
        found = toolchain.supplied.python()
        if found is not None:
            return found
    return folder(toolchain) / "bin" / "python"


def absence(toolchain: Toolchain) -> str:
    """What is missing of a toolchain that is not installed, and what to do."""
    if toolchain.supplied is None:
        return (
            f"expected the toolchain {toolchain.name!r} in {folder(toolchain)}, found none; "
            f"run: outrider toolchain install {toolchain.name}"
        )
    wanted = []
    if toolchain.supplied.python() is None:
        having = (
            f" with {', '.join(toolchain.supplied.imports)}" if toolchain.supplied.imports else ""
        )
        wanted.append(f"a Python{having} at {' or '.join(toolchain.supplied.pythons)}")
    if toolchain.supplied.program and toolchain.supplied.tool() is None:
        wanted.append(f"{toolchain.supplied.program} on the path")
    return (
        f"expected the tool of {toolchain.name!r}, which you supply: {' and '.join(wanted)}; found none. "
        f"It needs {toolchain.supplied.hint}"
    )


def is_installed(toolchain: Toolchain) -> bool:
    """Whether it is there, completely."""
    if toolchain.supplied is not None:
        return toolchain.supplied.is_there()
    return (folder(toolchain) / MARKER).is_file()


def install(toolchain: Toolchain, say: Say = lambda _: None) -> bool:
    """Install a toolchain.

    Args:
        toolchain: which.
        say: told what is being done.

    Returns:
        Whether anything had to be done.

    Raises:
        ToolchainMissingError: the user supplies its tool, and it is not there.
        ToolchainError: the environment could not be made.
    """
    if toolchain.supplied is not None:
        python(toolchain)
        return False
    home = folder(toolchain)
    with _locked(toolchain):
        if is_installed(toolchain):
            return False
        shutil.rmtree(home, ignore_errors=True)
        uv = shutil.which("uv")
        try:
            (_install_with_uv if uv else _install_with_pip)(toolchain, home, say)
            _mark(toolchain, home)
        except BaseException:
            shutil.rmtree(home, ignore_errors=True)
            raise
    return True


def remove(toolchain: Toolchain) -> list[Path]:
    """Remove every installed content of a toolchain; returns the folders."""
    with _locked(toolchain):
        homes = [
            path
            for path in sorted(root().glob(f"{toolchain.name}-*"))
            if len(path.name) == len(toolchain.name) + 13
        ]
        for home in homes:
            (home / MARKER).unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)
    return homes


def packages(toolchain: Toolchain) -> dict[str, str]:
    """Names and versions in an installed toolchain."""
    if toolchain.supplied is not None:
        return _listed(python(toolchain)) if toolchain.supplied.pythons else {}
    marker = json.loads((folder(toolchain) / MARKER).read_text())
    found: dict[str, str] = marker["packages"]
    return found


def _install_with_uv(toolchain: Toolchain, home: Path, say: Say) -> None:
    say(f"{toolchain.name}: making an environment with uv")
    _run(
        [
            "uv",
            "venv",
            "--quiet",
            "--no-project",
            "--python",
            sys.executable,
            str(home),
        ]
    )
    base = ["uv", "pip", "install", "--quiet", "--python", str(home / "bin" / "python")]
    base += ["--no-deps", "--require-hashes", "--compile-bytecode"]
    for lock in toolchain.locks:
        say(f"{toolchain.name}: installing {lock.name}")
        _run([*base, "-r", str(lock)])
    for lock in toolchain.locks_any_python:
        say(f"{toolchain.name}: installing {lock.name}")
        _run([*base, "--python-version", _ANY_PYTHON, "-r", str(lock)])


def _install_with_pip(toolchain: Toolchain, home: Path, say: Say) -> None:
    say(f"{toolchain.name}: making an environment with pip")
    _run([sys.executable, "-m", "venv", str(home)])
    base = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    base += ["--no-deps", "--require-hashes", "--disable-pip-version-check"]
    # What a lock pins was resolved for this Python; some packages' metadata refuse it nevertheless.
    base += ["--ignore-requires-python"]
    for lock in (*toolchain.locks, *toolchain.locks_any_python):
        say(f"{toolchain.name}: installing {lock.name}")
        _run([*base, "-r", str(lock)])


def _listed(interpreter: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(_run([str(interpreter), "-I", "-c", _LIST_PACKAGES]))
    return dict(sorted(found.items()))


def _mark(toolchain: Toolchain, home: Path) -> None:
    marker = {
        "toolchain": toolchain.name,
        "lock_sha256": toolchain.lock_sha256,
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": _listed(home / "bin" / "python"),
    }
    partial = home / f"{MARKER}.part"
    partial.write_text(json.dumps(marker, indent=1))
    partial.replace(home / MARKER)


def _run(command: list[str]) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"{command[0]} did not end within {_TIMEOUT_S} s; try again") from None
    except OSError as error:
        raise ToolchainError(f"{command[0]} cannot be run: {error}") from None
    if done.returncode:
        lines = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise ToolchainError(
            f"expected {' '.join(command[:4])} ... to install the toolchain, found status {done.returncode}:\n{lines}"
        )
    return done.stdout


@contextlib.contextmanager
def _locked(toolchain: Toolchain) -> Iterator[None]:
    try:
        root().mkdir(parents=True, exist_ok=True)
        lock = (root() / f".{toolchain.name}.lock").open("w")
    except OSError as error:
        raise ToolchainError(
            f"{root()}: expected a folder that can be written, found: {error.strerror}; set OUTRIDER_TOOLCHAINS"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
