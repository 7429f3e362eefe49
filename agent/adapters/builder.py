"""Builds engines: TensorRT's driver script in a process of its own, guarded.

Rules:
- A build has low priority, is the first to be killed when memory is short, and dies with the daemon.
- It is ended when free memory falls below the floor, when its time is up, or when nobody wants it any more.
- Status 0 proves nothing: the answer must be there, say ``ok``, and name the digest of the file that is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.adapters import clock, disk
from agent.errors import (
    BuildCancelledError,
    BuildLostError,
    BuildMemoryError,
    BuildTimeoutError,
    EngineError,
    RuntimeMissingError,
)
from agent.runtimes import tensorrt_driver

DRIVER: Final = Path(tensorrt_driver.__file__)
_POLL_S: Final = 0.25
_STOP_S: Final = 5.0
_PROBE_S: Final = 60.0
_MAX_ANSWER_BYTES: Final = 16 << 20
_LOG_BYTES: Final = 1500

# In the child, before it becomes the driver: die with the daemon, give way to everything else.
_START: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.nice(10)
try:
    open("/proc/self/oom_score_adj", "w").write("900")
except OSError:
    pass
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""

OnProgress = Callable[[float, str], None]


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a build.

    Attributes:
        module: ``tensorrt`` or ``tensorrt_rtx``.
        profiles: minimum, optimum and maximum shape by input that varies.
        workspace_mib: at most so much scratch memory of the GPU; 0: half of what is free.
        memory_floor_mib: free memory of the system below which a build does not begin, and is ended.
        timeout_s: longest build.
        timings: folder of the timing cache; empty for none.
    """

    module: str = "tensorrt"
    profiles: dict[str, list[list[int]]] = {}
    workspace_mib: int = 0
    memory_floor_mib: int = 512
    timeout_s: float = 7200.0
    timings: str = ""


class BuiltEngine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine in its file.

    Attributes:
        environment: what it depends on, see `agent.runtimes.tensorrt_driver.environment`.
        info: all that the driver said.
    """

    sha256: str
    size_bytes: int
    build_s: float
    environment: dict[str, Any]
    info: dict[str, Any]


class EngineBuilder:
    """Builds engines below a folder, each in a folder of its own that is thrown away.

    Args:
        folder: where the work folders are made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def probe(self, module: str = "tensorrt") -> dict[str, Any]:
        """What an engine that is built now would depend on.

        Raises:
            RuntimeMissingError: TensorRT or a GPU is missing.
            EngineError: the driver failed otherwise.
        """
        with tempfile.TemporaryDirectory(prefix="probe-", dir=self._folder) as name:
            work = Path(name)
            options = BuildOptions(module=module, memory_floor_mib=0, timeout_s=_PROBE_S)
            answer = await self._run(work, ["probe"], {"module": module}, options, _unheard)
        if answer.get("gpu") is None:
            raise RuntimeMissingError(
                f"expected a CUDA device, found none: {answer.get('gpu_problem')}"
            )
        return dict(answer["environment"])

    async def build(
        self, onnx: Path, engine: Path, options: BuildOptions, on_progress: OnProgress
    ) -> BuiltEngine:
        """Build `engine` from `onnx`; on failure and on cancellation no file is left.

        Args:
            onnx: the model.
            engine: file to make.
            options: what is asked.
            on_progress: told the share that is done, 0 to 1, and what is being done.

        Raises:
            BuildMemoryError, BuildTimeoutError, BuildLostError, RuntimeMissingError, EngineError.
        """
        floor_mib = options.memory_floor_mib
        _check_memory(floor_mib, "to begin a build")
        wanted = {
            "module": options.module,
            "profiles": options.profiles,
            "workspace_mib": options.workspace_mib,
            "memory_floor_mib": floor_mib,
            "timing_cache": options.timings,
        }
        with tempfile.TemporaryDirectory(prefix="build-", dir=self._folder) as name:
            work = Path(name)
            made = work / "model.engine"
            command = ["build", "--onnx", _absolute(onnx), "--engine", str(made)]
            info = await self._run(work, command, wanted, options, on_progress)
            found = await asyncio.to_thread(disk.sha256_of, made)
            if not found or found[0] != info.get("sha256") or not found[1]:
                raise BuildLostError(
                    f"expected an engine with sha256 {info.get('sha256')}, found "
                    f"{found[0] if found else 'no file'}; the driver answered junk"
                )
            disk.move(made, engine)
        return BuiltEngine(
            sha256=found[0],
            size_bytes=found[1],
            build_s=float(info.get("build_s", 0.0)),
            environment=dict(info.get("environment", {})),
            info=info,
        )

    async def _run(
        self,
        work: Path,
        command: list[str],
        wanted: dict[str, Any],
        options: BuildOptions,
        on_progress: OnProgress,
    ) -> dict[str, Any]:
        """Run the driver in `work`; its answer."""
        argv = [str(DRIVER), *command, "--answer", str(work / "answer.json")]
        argv += ["--options", json.dumps(wanted)]
        with (work / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _START, str(os.getpid()), *argv,
                cwd=work, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        patience_s = _STOP_S
        try:
            await _watch(process, work, options, on_progress)
        except BuildMemoryError:
            patience_s = 0.0  # what it holds is needed now
            raise
        finally:
            await _end(process, patience_s)
        return _answer(work, process.returncode)


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _unheard(_fraction: float, _message: str) -> None:
    pass


def _check_memory(floor_mib: int, what: str) -> None:
    found_mib = tensorrt_driver.available_mib()
    if found_mib < floor_mib:
        raise BuildMemoryError(
            f"expected at least {floor_mib} MiB of free memory {what}, found {found_mib} MiB; "
            "end other programs, or lower [build] memory_floor_mib"
        )


async def _watch(
    process: asyncio.subprocess.Process, work: Path, options: BuildOptions, on_progress: OnProgress
) -> None:
    """Wait for the end; pass progress on, and raise where a limit is broken."""
    ends = clock.monotonic() + options.timeout_s
    said = (-1.0, "")
    while process.returncode is None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), _POLL_S)
        told = _progress(work)
        if told is not None and told != said:
            said = told
            on_progress(*told)
        if process.returncode is not None:
            return
        _check_memory(options.memory_floor_mib, "while building")
        if clock.monotonic() >= ends:
            raise BuildTimeoutError(
                f"expected the driver to end within {options.timeout_s:g} s, and ended it; "
                "raise [build] timeout_s, or choose a smaller model"
            )


def _progress(work: Path) -> tuple[float, str] | None:
    try:
        said = json.loads((work / tensorrt_driver.PROGRESS).read_bytes())
        fraction = float(said["done"]) / max(float(said["total"]), 1.0)
        return min(max(fraction, 0.0), 1.0), str(said.get("message", ""))[:200]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not written yet, or junk: progress is no promise


async def _end(process: asyncio.subprocess.Process, patience_s: float) -> None:
    """Tell what still runs to end, and kill it when it has not after `patience_s`."""
    if process.returncode is not None:
        return
    steps = [(signal.SIGTERM, patience_s), (signal.SIGKILL, None)]
    for number, wait_s in steps if patience_s else steps[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), wait_s)
            return


def _answer(work: Path, status: int | None) -> dict[str, Any]:
    answer: Any = None
    path = work / "answer.json"
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _MAX_ANSWER_BYTES:
            answer = json.loads(path.read_bytes())
    if not isinstance(answer, dict):
        if status == -signal.SIGKILL:
            raise BuildMemoryError(
                "the system killed the build, most likely for want of memory; end other programs"
            )
        raise BuildLostError(f"the build ended with status {status} and no answer{_log(work)}")
    if answer.get("ok") is True:
        return answer
    text = str(answer.get("error", "it gave no reason"))[:1500]
    kinds = {
        "memory": BuildMemoryError,
        "cancelled": BuildCancelledError,
        "gpu": RuntimeMissingError,
        "module": RuntimeMissingError,
    }
    raise kinds.get(str(answer.get("code")), EngineError)(text)


def _log(work: Path) -> str:
    data = disk.read(work / "log") or b""
    lines = data[-_LOG_BYTES:].decode(errors="replace").strip()
    return f"; its last lines:\n{lines}" if lines else ""
