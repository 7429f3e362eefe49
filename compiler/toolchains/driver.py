"""Calling a toolchain's driver: JSON in, JSON and files out, in a folder that is thrown away.

Rules:
- The driver gets copies of its inputs; nothing that it does to them is seen outside.
- Status 0 proves nothing: the answer must be JSON, say ``ok``, and each file that it names must be a
  plain, non-empty file in the output folder.
- A driver that has something to say on the way replaces ``progress.json``: ``{"done", "total", "message"}``.
- Whatever goes wrong is a `BuildError` that says what, with the end of the driver's log.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import BuildError
from compiler.toolchains import forks, install, process
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.process import Limits

HARNESS: Final = Path(__file__).parent / "drivers" / "harness.py"
_MAX_ANSWER_BYTES: Final = 16 << 20
_MAX_OUTPUT_BYTES: Final = 4 << 30
_MAX_PROGRESS_BYTES: Final = 1 << 16


OnProgress = Callable[[float, str], None]


def unheard(_fraction: float, _message: str) -> None:
    """Nobody listens."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a driver made.

    Attributes:
        files: by name, the bytes.
        info: whatever else it said.
    """

    files: dict[str, bytes]
    info: dict[str, Any]
    wall_s: float
    peak_memory_mib: float


def call(
    toolchain: Toolchain,
    operation: str,
    *,
    files: Mapping[str, bytes],
    options: Mapping[str, Any],
    limits: Limits | None = None,
    on_progress: OnProgress = unheard,
) -> Answer:
    """Run one operation of a toolchain's driver.

    Args:
        toolchain: an installed one.
        operation: of the driver.
        files: copied into the driver's work folder under these names.
        options: JSON values for the operation.
        limits: the toolchain's own when None.
        on_progress: told the share that is done and what is being done, where the driver says it.

    Raises:
        ToolchainMissingError: it is not installed.
        BuildError: the driver failed in whatever way.
    """
    install.python(toolchain)  # before anything is written
    with tempfile.TemporaryDirectory(prefix=f"outrider-{toolchain.name}-") as name:
        work = Path(name)
        (work / "in").mkdir()
        (work / "out").mkdir()
        for file, data in files.items():
            (work / "in" / file).write_bytes(data)
        (work / "job.json").write_text(
            json.dumps({"operation": operation, "files": sorted(files), "options": dict(options)})
        )
        look = _Progress(work / "progress.json", on_progress)
        outcome = _run(toolchain, work, limits or toolchain.limits, look)
        what = f"{toolchain.name} {operation}"
        info = _answer(work, what, outcome)
        names = info.pop("files", {})
        return Answer(
            files={key: _output(work, what, key, value) for key, value in names.items()},
            info=info,
            wall_s=outcome.wall_s,
            peak_memory_mib=outcome.peak_memory_mib,
        )


def expect(toolchain: Toolchain) -> None:
    """Have a toolchain's imports done by the time that it is called, where it is installed and calls are kept warm."""
    if toolchain.supplied is None and install.is_installed(toolchain):
        forks.expect(_kind(toolchain))


def _run(
    toolchain: Toolchain, work: Path, limits: Limits, look: Callable[[], None]
) -> process.Outcome:
    """The job in `work`: in a warm fork, or, where the user supplies the tool, in a process of its own."""
    python = install.python(toolchain)
    environment = _environment(toolchain, work, python)
    if toolchain.supplied is None:
        job = forks.Job(module="harness", folder=work, environment=environment, limits=limits)
        return forks.run(_kind(toolchain), job, look)
    for target, script in _scripts(toolchain):
        (work / target).write_bytes(script.read_bytes())
    command = [str(python), "-E", "-s", str(work / HARNESS.name)]
    return process.run(command, folder=work, environment=environment, limits=limits, look=look)


def _kind(toolchain: Toolchain) -> forks.Kind:
    python = install.python(toolchain)
    return forks.Kind(
        command=(str(python), "-E", "-s"),
        modules=("harness", "driver"),
        scripts=_scripts(toolchain),
        version=toolchain.driver_sha256,
        environment=lambda folder: _environment(toolchain, folder, python),
    )


def _scripts(toolchain: Toolchain) -> tuple[tuple[str, Path], ...]:
    beside = [(path.name, path) for path in toolchain.modules]
    return ((HARNESS.name, HARNESS), ("driver.py", toolchain.driver), *beside)


def _environment(toolchain: Toolchain, work: Path, python: Path) -> dict[str, str]:
    supplied, path = toolchain.supplied, [python.parent]
    tool = supplied.tool() if supplied is not None else None
    found = process.child_environment(work, path=path if tool is None else [*path, tool.parent])
    return found | (supplied.environment if supplied is not None else {})


class _Progress:
    """Tells what a driver says in its progress file, when it has changed."""

    def __init__(self, path: Path, tell: OnProgress) -> None:
        self._path, self._tell = path, tell
        self._seen = 0

    def __call__(self) -> None:
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._seen:
                return
            self._seen = changed
            with self._path.open("rb") as file:
                said = json.loads(file.read(_MAX_PROGRESS_BYTES))
            fraction = float(said["done"]) / max(float(said["total"]), 1.0)
            self._tell(min(max(fraction, 0.0), 1.0), str(said.get("message", ""))[:200])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return  # not written yet, or junk: progress is no promise


def _answer(work: Path, what: str, outcome: process.Outcome) -> dict[str, Any]:
    path = work / "answer.json"
    answer: Any = None
    if path.is_file() and not path.is_symlink() and path.stat().st_size <= _MAX_ANSWER_BYTES:
        try:
            answer = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            answer = None
    if isinstance(answer, dict) and answer.get("ok") is False:
        raise BuildError(f"{what}: {str(answer.get('error', 'failed without a reason'))[:600]}")
    if outcome.problem:
        raise BuildError(f"{what} {outcome.problem}{_log(outcome)}")
    if not isinstance(answer, dict) or answer.get("ok") is not True:
        raise BuildError(f"{what} ended with status 0 and no usable answer{_log(outcome)}")
    if not isinstance(answer.get("files", {}), dict):
        raise BuildError(f"{what}: expected its answer to list files by name")
    return answer


def _output(work: Path, what: str, key: str, name: object) -> bytes:
    path = work / "out" / str(name)
    sane = (
        isinstance(name, str)
        and Path(name).name == name
        and path.is_file()
        and not path.is_symlink()
        and 0 < path.stat().st_size <= _MAX_OUTPUT_BYTES
    )
    if not sane:
        raise BuildError(f"{what}: expected a non-empty file as {key!r}, found none under {name!r}")
    return path.read_bytes()


def _log(outcome: process.Outcome) -> str:
    return f"; its last lines:\n{outcome.tail}" if outcome.tail else ""
