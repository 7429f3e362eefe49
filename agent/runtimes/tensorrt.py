"""TensorRT on the GPU: `tensorrt` for engines that this device built, `tensorrt_rtx` for RTX cards.

Rules:
- Whether there is a CUDA driver is asked in a process of its own before anything is made: without one
  TensorRT crashes the process.
- An engine that holds code for the host is refused; nothing here ever allows it.
- Every bool and every None that the API returns is looked at. One context, one stream, one thread.
- Shapes follow the feeds within the engine's profile; buffers grow and are kept.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from agent.errors import InferenceError, LoadError, RuntimeMissingError, TensorError
from agent.runtimes import tensorrt_driver as driver
from agent.runtimes.cuda import Buffer, Cuda, open_cuda
from agent.runtimes.port import Opener, Options, Runtime, Tensors
from agent.runtimes.tensors import Array, FileTensor, Signature
from fleet.artifact.manifest import Manifest
from ota.verify.artifact import VerifiedArtifact

ENGINE_SUFFIX: Final = ".engine"
_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "float": "float32",
        "half": "float16",
        "int8": "int8",
        "int32": "int32",
        "int64": "int64",
        "bool": "bool",
        "uint8": "uint8",
    }
)


def builds(manifest: Manifest) -> bool:
    """Whether a device makes what it runs itself, from an ONNX model that is the artifact's payload."""
    return manifest.runtime == "tensorrt" and manifest.payload.member.endswith(".onnx")


def opener(module: str) -> Opener:
    """What opens engines with one of TensorRT's modules."""

    def open_tensorrt(artifact: VerifiedArtifact, options: Options) -> Runtime:
        return _open(artifact, options, module)

    return open_tensorrt


def _open(artifact: VerifiedArtifact, _options: Options, module: str) -> Runtime:
    """Load an artifact's engine.

    Raises:
        RuntimeMissingError: TensorRT, a CUDA package or a CUDA driver is missing.
        LoadError: TensorRT refuses the engine, or it is not what the manifest says.
    """
    payload = artifact.package.manifest.payload.member
    if not payload.endswith(ENGINE_SUFFIX):
        raise LoadError(
            f"expected a built engine, found {payload!r}: TensorRT runs what this device has built from it"
        )
    try:
        trt = importlib.import_module(module)
    except ImportError as error:
        raise RuntimeMissingError(
            f"expected {module}, found none ({error}); it comes with JetPack or the GPU's software, and the "
            "agent's environment must see the system's packages"
        ) from None
    device, problem = driver.gpu()
    if device is None:
        raise RuntimeMissingError(f"expected a CUDA driver for {module}, found none: {problem}")
    try:
        driver.refuse_host_code(artifact.package.payload)
    except driver.DriverError as error:
        raise LoadError(str(error)) from None
    log = driver.logger(trt)
    try:
        runtime = driver.made(lambda: trt.Runtime(log), "runtime", log)
        engine = driver.made(
            lambda: runtime.deserialize_cuda_engine(artifact.package.payload), "engine", log
        )
        context = driver.made(engine.create_execution_context, "execution context", log)
    except driver.DriverError as error:
        raise LoadError(
            f"{error}; an engine runs only with the TensorRT, the driver and the device that built it"
        ) from None
    return TensorRt(trt, runtime, engine, context, artifact)


class TensorRt:
    """An engine behind the runtime port; for the thread that opened it."""

    def __init__(
        self, trt: Any, runtime: Any, engine: Any, context: Any, artifact: VerifiedArtifact
    ) -> None:
        """Bind an engine and its context.

        Raises:
            LoadError: the engine's tensors are not what the manifest says.
        """
        # The engine needs its runtime, and the context its engine, for as long as they are used.
        self._runtime, self._engine, self._context = runtime, engine, context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._dtypes = {name: _dtype(engine, name) for name in names}
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in inputs]
        hosted = [n for n in names if engine.get_tensor_location(n) != trt.TensorLocation.DEVICE]
        if hosted:
            raise LoadError(f"tensors {hosted}: expected all on the GPU, found some on the host")
        self._profiles = {name: engine.get_tensor_profile_shape(name, 0) for name in inputs}
        self._signature = Signature(
            artifact.package.manifest,
            inputs={name: FileTensor(self._dtypes[name]) for name in inputs},
            outputs={name: FileTensor(self._dtypes[name]) for name in self._outputs},
        )
        self._buffers: dict[str, Buffer] = {}
        self._cuda: Cuda = open_cuda()

    def run(self, feeds: Tensors) -> dict[str, Array]:
        """See `agent.runtimes.port.Runtime.run`."""
        return self._signature.run(feeds, self._infer)

    def close(self) -> None:
        """Free context, engine and memory, in this order."""
        self._context = self._engine = self._runtime = None
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        self._cuda.close()

    def _infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        context = self._context
        for name, array in feeds.items():
            if array.size == 0:
                raise TensorError(f"input {name!r}: TensorRT takes no empty tensors; send a value")
            if not context.set_input_shape(name, tuple(array.shape)):
                low, _, high = (driver.shape_of(shape) for shape in self._profiles[name])
                raise TensorError(
                    f"input {name!r}: expected a shape from {low} to {high}, as the engine was built "
                    f"for, found {list(array.shape)}"
                )
        missing = list(context.infer_shapes())
        if missing:
            raise InferenceError(f"TensorRT cannot infer shapes: inputs {missing} are not given")
        answers = {name: self._empty(name) for name in self._outputs}
        for name, array in (feeds | answers).items():
            if not context.set_tensor_address(name, self._buffer(name, array.nbytes).address):
                raise InferenceError(f"TensorRT refused the address of tensor {name!r}")
        for name, array in feeds.items():
            self._buffers[name].write(array)
        if not context.execute_async_v3(self._cuda.stream):
            raise InferenceError("TensorRT could not be asked to execute the engine")
        self._cuda.synchronize()
        for name, array in answers.items():
            self._buffers[name].read(array)
        return answers

    def _empty(self, name: str) -> Array:
        shape = driver.shape_of(self._context.get_tensor_shape(name))
        if any(n < 0 for n in shape):
            raise InferenceError(f"output {name!r}: expected a known shape, found {shape}")
        return np.empty(shape, np.dtype(self._dtypes[name]))

    def _buffer(self, name: str, size_bytes: int) -> Buffer:
        kept = self._buffers.get(name)
        if kept is not None and kept.size_bytes >= size_bytes:
            return kept
        if kept is not None:
            self._buffers.pop(name).free()
        self._buffers[name] = self._cuda.buffer(max(size_bytes, 1))
        return self._buffers[name]


def _dtype(engine: Any, name: str) -> str:
    found = driver.lower(engine.get_tensor_dtype(name))
    if found not in _DTYPES:
        raise LoadError(f"tensor {name!r}: expected one of {', '.join(_DTYPES)}, found {found}")
    return _DTYPES[found]
