"""TensorRT engines from ONNX models: one script over the API, for TensorRT 10.3 to 11 and TensorRT-RTX.

It imports nothing of this project, so that it runs wherever TensorRT is: inside a toolchain (it has
``OPERATIONS``), on JetPack's Python 3.10 with nothing but numpy and ``tensorrt``, or by hand:

    python3 tensorrt_driver.py build --onnx model.onnx --engine model.engine
    python3 tensorrt_driver.py inspect --engine model.engine
    python3 tensorrt_driver.py probe

Rules:
- Precision stands in the ONNX file (casts, QDQ); networks are strongly typed.
- Every bool and every None that the API returns is checked; a refusal says TensorRT's own words.
- No `Runtime` is made before a CUDA driver was found, in a process of its own: without one it crashes.
- An engine with code for the host inside is neither made nor loaded.
- ``progress.json`` in the current folder says how far a build is; a file ``cancel`` there, SIGTERM or too
  little memory ends it. An engine appears whole or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MODULES = ("tensorrt", "tensorrt_rtx")
PROGRESS, CANCEL = "progress.json", "cancel"
_TOTAL = 1000
_WATCH_S, _SAY_S = 0.2, 0.1
_MIN_WORKSPACE_MIB = 16
_ELF, _ELF_HEADER_BYTES, _CUDA_MACHINE = b"\x7fELF\x02\x01\x01", 24, 190

_CUDA_PROBE = """
import ctypes, json, sys
cuda = ctypes.CDLL("libcuda.so.1")
def call(name, *arguments):
    status = getattr(cuda, name)(*arguments)
    if status:
        sys.exit(f"{name} failed with CUDA error {status}")
def integer(name, *arguments):
    value = ctypes.c_int()
    call(name, ctypes.byref(value), *arguments)
    return value.value
call("cuInit", 0)
if not integer("cuDeviceGetCount"):
    sys.exit("the CUDA driver finds no device")
device, name = integer("cuDeviceGet", 0), ctypes.create_string_buffer(256)
call("cuDeviceGetName", name, 256, device)
major, minor, integrated = (integer("cuDeviceGetAttribute", n, device) for n in (75, 76, 18))
context, free, total = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_size_t()
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
call("cuCtxSetCurrent", context)
call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
print(json.dumps({"name": name.value.decode(errors="replace"), "compute_capability": f"{major}.{minor}",
    "integrated": bool(integrated), "driver": integer("cuDriverGetVersion"),
    "memory_free_mib": free.value >> 20, "memory_total_mib": total.value >> 20}))
"""


class DriverError(Exception):
    """What ends an operation; `code`, such as ``parse`` or ``memory``, says of which kind it is."""

    def __init__(self, code: str, text: str) -> None:
        """Say what was expected, what was found, and what to do."""
        super().__init__(text)
        self.code = code


def library(name: str = "") -> Any:
    """The TensorRT module: `name`, else the first that can be imported."""
    reasons = []
    for module in (name,) if name else MODULES:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            reasons.append(f"{module}: {error}")
    raise DriverError("module", f"expected TensorRT's Python module, found {'; '.join(reasons)}")


def gpu() -> tuple[dict[str, Any] | None, str]:
    """The first CUDA device, else None and why; asked in a process of its own, which may crash."""
    command = [sys.executable, "-c", _CUDA_PROBE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    try:
        return dict(json.loads(done.stdout)), ""
    except ValueError:
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"the probe ended with status {done.returncode}"


def available_mib() -> int:
    """Memory of the system that can be taken without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:"))


def environment(trt: Any, device: dict[str, Any] | None) -> dict[str, Any]:
    """What an engine depends on besides its model: it loads where these are the same."""
    found = device or {}
    l4t = Path("/etc/nv_tegra_release")
    return {
        "module": trt.__name__,
        "version": trt.__version__,
        "device": found.get("name", ""),
        "compute_capability": found.get("compute_capability", ""),
        "cuda_driver": found.get("driver", 0),
        "l4t": l4t.read_text(errors="replace").partition("\n")[0] if l4t.is_file() else "",
    }


def refuse_host_code(engine: bytes) -> None:
    """Raise where an engine holds a program for the host.

    A version-compatible engine carries the lean runtime, a shared library, which is loaded with it. Kernels
    are ELF files, too, but for CUDA's machine.
    """
    at = engine.find(_ELF)
    while at >= 0:
        header = engine[at : at + _ELF_HEADER_BYTES]
        machine = int.from_bytes(header[18:20], "little")
        if machine != _CUDA_MACHINE and int.from_bytes(header[20:24], "little") == 1:
            text = f"expected an engine of kernels only, found a program for the host at byte {at}"
            raise DriverError("host_code", f"{text}; build it without version compatibility")
        at = engine.find(_ELF, at + 1)


def logger(trt: Any) -> Any:
    """A logger that keeps the last errors, so that a failure can say why; called from several threads."""

    class Log(trt.ILogger):  # type: ignore[misc] # the library has no types
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            with self.lock:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    self.errors = [*self.errors[-2:], msg]
                if severity != trt.ILogger.VERBOSE:
                    print(severity, msg, file=sys.stderr, flush=True)

        def said(self) -> str:
            with self.lock:
                return "; ".join(self.errors)[:1500] or "it gave no reason"

    return Log()


class Control:
    """How far a build is, and whether it should go on; called from several threads.

    Args:
        floor_mib: memory of the system below which the build ends; 0 for none.
    """

    def __init__(self, floor_mib: int = 0) -> None:
        """Nothing is done yet."""
        self._folder, self._floor_mib = Path.cwd(), floor_mib
        self._lock = threading.Lock()
        self._phases: dict[str, list[Any]] = {}
        self._done, self._said_at = 0, -_SAY_S
        self.stopped: DriverError | None = None

    def check(self, *, signalled: bool = False) -> None:
        """Look whether there is a reason to end; the first one counts."""
        found_mib = available_mib() if self._floor_mib else 0
        if found_mib < self._floor_mib:
            text = f"expected {self._floor_mib} MiB of free memory, found {found_mib} MiB"
            self.stopped = self.stopped or DriverError("memory", f"{text}; end other programs")
        if signalled or (self._folder / CANCEL).exists():
            self.stopped = self.stopped or DriverError("cancelled", "the build was cancelled")

    def raise_stopped(self) -> None:
        """Raise the reason to end, where there is one."""
        if self.stopped is not None:
            raise self.stopped

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look for reasons to end while the block runs.

        SIGTERM is read from a pipe by a thread: the main one is inside TensorRT, where no handler runs.
        """
        ended, (told, tell) = threading.Event(), os.pipe()
        os.set_blocking(tell, False)
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)

        def watch() -> None:
            while not ended.is_set():
                self.check(signalled=bool(select.select([told], [], [], _WATCH_S)[0]))

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGTERM, before)

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase of the build began, inside another or not."""
        with self._lock:
            self._phases[phase_name] = [parent_phase, max(num_steps, 1), 0]
            self._tell(phase_name)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step of a phase is done; returns whether to go on."""
        with self._lock:
            if phase_name in self._phases:
                self._phases[phase_name][2] = step + 1
            self._tell(phase_name)
        return self.stopped is None

    def phase_finish(self, phase_name: str) -> None:
        """A phase ended."""
        with self._lock:
            self._phases.pop(phase_name, None)

    def _share(self, phase: str) -> float:
        """Share of a phase that is done, with what is done of the phases inside its current step."""
        _, steps, done = self._phases[phase]
        inside = [self._share(name) for name, found in self._phases.items() if found[0] == phase]
        return float(min(1.0, (done + max(inside, default=0.0)) / steps))

    def _tell(self, message: str) -> None:
        tops = [name for name, found in self._phases.items() if found[0] not in self._phases]
        share = max((self._share(name) for name in tops), default=0.0)
        self._done = max(self._done, int(share * (_TOTAL - 1)))
        if time.monotonic() >= self._said_at + _SAY_S:
            self._said_at = time.monotonic()
            self.write(self._done, message)

    def write(self, done: int, message: str) -> None:
        """Say how far it is, in thousandths; where the disk is full nothing is said."""
        said = json.dumps({"done": done, "total": _TOTAL, "message": message})
        with contextlib.suppress(OSError):
            write_whole(self._folder / PROGRESS, said.encode(), durable=False)


def monitor(trt: Any, floor_mib: int) -> Any:
    """A `Control` that is TensorRT's progress monitor, too."""

    class Monitor(Control, trt.IProgressMonitor):  # type: ignore[misc] # the library has no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            Control.__init__(self, floor_mib)

    return Monitor()


def read(path: Path) -> bytes:
    """A file that must be there and not be empty."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DriverError("input", f"{path}: {error.strerror or error}") from None
    if not data:
        raise DriverError("input", f"{path}: expected some bytes, found an empty file")
    return data


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file so that it appears whole or not at all."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Timings:
    """What TensorRT measured in earlier builds of the same model on the same device, in a folder.

    A file's name is a digest of the model and of all that measurements depend on, because two models of one
    structure must not share them. Its first line is the digest of the rest.
    """

    def __init__(self, folder: str, content: list[Any]) -> None:
        """Args: folder: empty for none; content: what measurements depend on, as JSON values."""
        self._path = (
            Path(folder) / f"{_digest(json.dumps(content).encode())}.timing" if folder else None
        )
        self.loaded_bytes = self.saved_bytes = 0

    def load(self, config: Any, log: Any) -> None:
        """Give the config what was kept, or an empty cache."""
        kept = self._path.read_bytes() if self._path is not None and self._path.is_file() else b""
        head, _, body = kept.partition(b"\n")
        for data in (body, b"") if head == _digest(body).encode() else (b"",):
            cache = config.create_timing_cache(data)
            if cache is not None and config.set_timing_cache(cache, False):
                self.loaded_bytes = len(data)
                return
        raise DriverError("build", f"TensorRT refused an empty timing cache: {log.said()}")

    def save(self, config: Any) -> None:
        """Keep what was measured; where that fails the next build measures again."""
        cache = config.get_timing_cache()
        data = cache.serialize() if cache is not None else None
        if data is not None and self._path is not None:
            body = bytes(data)
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self._path, _digest(body).encode() + b"\n" + body)
                self.saved_bytes = len(body)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def made(make: Callable[[], Any], what: str, log: Any) -> Any:
    """What TensorRT makes; where it cannot it returns None, or its factory's None is a TypeError."""
    try:
        thing = make()
    except TypeError as error:
        raise DriverError("build", f"TensorRT made no {what}: {log.said()} ({error})") from None
    if thing is None:
        raise DriverError("build", f"TensorRT made no {what}: {log.said()}")
    return thing


def network_of(trt: Any, builder: Any, model: bytes, log: Any) -> Any:
    """A strongly typed network from an ONNX model."""
    flag = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = made(lambda: builder.create_network(flag), "network", log)
    parser = made(lambda: trt.OnnxParser(network, log), "parser", log)
    if not parser.parse(model):
        found = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = "; ".join(f"{e.desc()} (node {e.node()})" for e in found[:3]) or log.said()
        raise DriverError("parse", f"TensorRT cannot parse the model: {reasons[:1500]}")
    if network.num_outputs < 1:
        raise DriverError("parse", "expected a model with outputs, found none")
    return network


def add_profiles(builder: Any, config: Any, profiles: Any, log: Any) -> int:
    """Optimization profiles: each gives minimum, optimum and maximum shape per input that varies."""
    wanted = profiles if isinstance(profiles, list) else [profiles] if profiles else []
    for shapes in wanted:
        profile = made(builder.create_optimization_profile, "optimization profile", log)
        try:
            for name, (minimum, optimum, maximum) in shapes.items():
                profile.set_shape(name, tuple(minimum), tuple(optimum), tuple(maximum))
        except (ValueError, TypeError, RuntimeError) as error:
            raise DriverError("profile", f"optimization profile {shapes}: {error}") from None
        if not profile or config.add_optimization_profile(profile) < 0:
            raise DriverError("profile", f"TensorRT refused the profile {shapes}: {log.said()}")
    return len(wanted)


def set_capabilities(trt: Any, config: Any, names: list[str], log: Any) -> None:
    """For whom an engine is built ahead of time; without names, for the device at hand."""
    if names and not hasattr(config, "set_compute_capability"):
        raise DriverError("input", "only TensorRT-RTX builds for other devices; name no capability")
    if names:
        config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        capability = getattr(trt.ComputeCapability, name, None)
        if capability is None or not config.set_compute_capability(capability, index):
            raise DriverError("input", f"TensorRT refused the capability {name}: {log.said()}")


def workspace_mib(asked_mib: int, device: dict[str, Any] | None) -> int:
    """Half of what is free, at most what was asked; a build takes as much again outside of it."""
    free_mib = min(available_mib(), device["memory_free_mib"] if device else sys.maxsize)
    cap_mib = max(free_mib // 2, _MIN_WORKSPACE_MIB)
    return min(asked_mib, cap_mib) if asked_mib else cap_mib


def summary(network: Any) -> dict[str, Any]:
    """Inputs, outputs, number of layers, and how many tensors between them have which precision."""
    dtypes = [dtype for layer in layers(network) for dtype in layer["outputs"]]
    return {
        "inputs": tensors(network.get_input, network.num_inputs),
        "outputs": tensors(network.get_output, network.num_outputs),
        "layers": int(network.num_layers),
        "precisions": {dtype: dtypes.count(dtype) for dtype in sorted(set(dtypes))},
    }


def layers(network: Any) -> list[dict[str, Any]]:
    """Each layer's name, kind, and the dtypes of what goes in and out."""
    return [
        {
            "name": layer.name,
            "kind": lower(layer.type),
            "inputs": [t["dtype"] for t in tensors(layer.get_input, layer.num_inputs)],
            "outputs": [t["dtype"] for t in tensors(layer.get_output, layer.num_outputs)],
        }
        for layer in map(network.get_layer, range(network.num_layers))
    ]


def tensors(get: Callable[[int], Any], count: int) -> list[dict[str, Any]]:
    """Names, dtypes and shapes of tensors; an optional input that is not there is left out."""
    found = [tensor for tensor in map(get, range(count)) if tensor is not None]
    return [{"name": t.name, "dtype": lower(t.dtype), "shape": shape_of(t.shape)} for t in found]


def shape_of(dims: Any) -> list[int]:
    """A shape as numbers; one whose rank is not known is empty."""
    try:
        return [int(n) for n in dims]
    except ValueError:
        return []


def lower(name: Any) -> str:
    """A name of one of TensorRT's enumerations, such as ``float`` for ``DataType.FLOAT``."""
    return str(name).rpartition(".")[2].lower()


def build_engine(onnx: Path, engine: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Build `engine` from `onnx`.

    Options, none of which must be given: ``module``; ``compute_capabilities`` such as ``["SM89"]``, ahead of
    time (TensorRT-RTX); ``workspace_mib``; ``profiles``, one or a list of them, each with minimum, optimum and
    maximum shape per input that varies; ``memory_floor_mib``; ``timing_cache``, a folder.
    """
    trt, model = library(options.get("module", "")), read(onnx)
    ahead = options.get("compute_capabilities") or []
    device, problem = (None, "") if ahead else gpu()
    if device is None and not ahead:
        raise DriverError("gpu", f"expected a CUDA device to build for, found none: {problem}")
    log, control = logger(trt), monitor(trt, int(options.get("memory_floor_mib", 0)))
    control.check()
    control.raise_stopped()
    builder = made(lambda: trt.Builder(log), "builder", log)
    network = network_of(trt, builder, model, log)
    config = made(builder.create_builder_config, "builder configuration", log)
    cap_mib = workspace_mib(int(options.get("workspace_mib", 0)), device)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, cap_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    set_capabilities(trt, config, ahead, log)
    profiles = add_profiles(builder, config, options.get("profiles"), log)
    if config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE):
        raise DriverError("host_code", "a version-compatible engine holds host code; none is built")
    env = environment(trt, device)
    timings = Timings(options.get("timing_cache", ""), [_digest(model), sorted(env.items()), ahead])
    timings.load(config, log)
    config.progress_monitor = control
    started = time.monotonic()
    with control.watching():
        serialized = builder.build_serialized_network(network, config)
    timings.save(config)
    control.raise_stopped()
    data = bytes(made(lambda: serialized, "engine", log))
    refuse_host_code(data)
    write_whole(engine, data)
    control.write(_TOTAL, "built")
    return {
        "version": trt.__version__, "environment": env, "compute_capabilities": ahead,
        "sha256": _digest(data), "size_bytes": len(data), "build_s": time.monotonic() - started,
        "workspace_mib": cap_mib, "profiles": profiles,
        "timings": {"loaded_bytes": timings.loaded_bytes, "saved_bytes": timings.saved_bytes},
        **summary(network),
    }  # fmt: skip


def inspect(onnx: Path | None, engine: Path | None, options: dict[str, Any]) -> dict[str, Any]:
    """What is inside an engine, where there is one; else the network that TensorRT makes of a model."""
    trt = library(options.get("module", ""))
    if engine is not None and engine.is_file():
        return inspect_engine(trt, read(engine))
    if onnx is None:
        raise DriverError("input", f"expected an engine or an ONNX model, found no file {engine}")
    log = logger(trt)
    builder = made(lambda: trt.Builder(log), "builder", log)
    network = network_of(trt, builder, read(onnx), log)
    return {"version": trt.__version__, "network": layers(network), **summary(network)}


def inspect_engine(trt: Any, data: bytes) -> dict[str, Any]:
    """A built engine's tensors, profiles and layers; needs the GPU that it was built for."""
    refuse_host_code(data)
    device, problem = gpu()
    if device is None:
        raise DriverError("gpu", f"expected a CUDA device to load it, found none: {problem}")
    log = logger(trt)
    runtime = made(lambda: trt.Runtime(log), "runtime", log)
    engine = made(lambda: runtime.deserialize_cuda_engine(data), "engine of these bytes", log)
    inspector = made(engine.create_engine_inspector, "inspector", log)
    told = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    found = []
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        profiles = range(engine.num_optimization_profiles if is_input else 0)
        ranges = [list(map(shape_of, engine.get_tensor_profile_shape(name, i))) for i in profiles]
        tensor = {"name": name, "dtype": lower(engine.get_tensor_dtype(name)), "input": is_input}
        shape = shape_of(engine.get_tensor_shape(name))
        found.append({**tensor, "shape": shape, "profiles": ranges})
    return {
        "version": trt.__version__, "environment": environment(trt, device), "tensors": found,
        "layers": int(engine.num_layers), "layer_information": json.loads(told or "{}").get("Layers", []),
    }  # fmt: skip


def probe(options: dict[str, Any]) -> dict[str, Any]:
    """What is here: the module and its version, the CUDA device or why there is none."""
    trt = library(options.get("module", ""))
    device, problem = gpu()
    log, env = logger(trt), environment(trt, device)
    if (
        device is not None or trt.__name__ == "tensorrt_rtx"
    ):  # the other one makes none without a GPU
        made(lambda: trt.Builder(log), "builder", log)
    found = {"modules": [trt.__name__], "version": trt.__version__, "environment": env}
    return {**found, "gpu": device, "gpu_problem": problem, "memory_mib": available_mib()}


def finish(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to ``model.engine``; options as of `build_engine`."""
    answer = build_engine(inputs / "model.onnx", outputs / "model.engine", options)
    return {**answer, "files": {"model": "model.engine"}}


OPERATIONS: dict[str, Callable[[Path, Path, dict[str, Any]], dict[str, Any]]] = {
    "probe": lambda _inputs, _outputs, options: probe(options),
    "inspect": lambda inputs, _, options: inspect(
        inputs / "model.onnx", inputs / "model.engine", options
    ),
    "finish": finish,
}
COMMANDS = ("build", "inspect", "probe")


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """One command of the command line."""
    options = json.loads(asked.options)
    if asked.command == "probe":
        return probe(options)
    if asked.command == "inspect":
        return inspect(asked.onnx, asked.engine, options)
    if asked.onnx is None or asked.engine is None:
        raise DriverError("input", "build needs --onnx and --engine")
    return build_engine(asked.onnx, asked.engine, options)


def main(argv: list[str]) -> int:
    """Run one command; the answer is JSON, on the output and in the file ``--answer``."""
    line = argparse.ArgumentParser(description="TensorRT engines from ONNX models.")
    line.add_argument("command", choices=COMMANDS)
    for name in ("--onnx", "--engine", "--answer"):
        line.add_argument(name, type=Path)
    line.add_argument("--options", default="{}", help="JSON, see build_engine")
    asked = line.parse_args(argv)
    warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX keeps calls that do nothing
    try:
        answer = {"ok": True, **run(asked)}
    except DriverError as error:
        answer = {"ok": False, "code": error.code, "error": str(error)}
    except Exception as error:  # noqa: BLE001 - the API raises whatever it likes
        traceback.print_exc()
        answer = {"ok": False, "code": "build", "error": repr(error)}
    print(json.dumps(answer, indent=1))
    if asked.answer is not None:
        write_whole(asked.answer, json.dumps(answer).encode())
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    # Python looks beside a script first, and a file there may be called as TensorRT's module is.
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent]
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # native libraries crash in their destructors, and the answer is complete
