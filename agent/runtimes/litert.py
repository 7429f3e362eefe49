"""LiteRT (TFLite) on the CPU: `ai_edge_litert` where it is installed, else `tflite_runtime`.

Rules:
- The file's tensors are found by name; shapes follow the feeds, and memory is planned again only
  when they change.
- A shape that the file cannot take is the caller's error, and leaves the runtime usable.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from agent.errors import InferenceError, LoadError, RuntimeMissingError, TensorError
from agent.runtimes.port import Options, Runtime, Tensors
from agent.runtimes.tensors import Array, FileTensor, Signature
from ota.verify.artifact import VerifiedArtifact

MODULES = ("ai_edge_litert", "tflite_runtime")


def open_litert(artifact: VerifiedArtifact, options: Options) -> Runtime:
    """Load an artifact's payload into an interpreter.

    Raises:
        RuntimeMissingError: neither package can be imported.
        LoadError: the interpreter refuses the file, or the file is not what the manifest says.
    """
    module = _module()
    arguments: dict[str, Any] = {"model_content": artifact.package.payload}
    if options.threads:
        arguments["num_threads"] = options.threads
    if options.exact:
        arguments["experimental_op_resolver_type"] = module.OpResolverType.BUILTIN_REF
    try:
        interpreter = module.Interpreter(**arguments)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, TypeError) as error:
        raise LoadError(f"LiteRT refused the model: {error}") from None
    return LiteRt(interpreter, artifact)


class LiteRt:
    """An interpreter behind the runtime port; for one thread."""

    def __init__(self, interpreter: Any, artifact: VerifiedArtifact) -> None:
        """Bind an interpreter whose tensors are allocated."""
        self._interpreter = interpreter
        inputs = {d["name"]: d for d in interpreter.get_input_details()}
        outputs = {d["name"]: d for d in interpreter.get_output_details()}
        self._inputs = {name: detail["index"] for name, detail in inputs.items()}
        self._outputs = {name: detail["index"] for name, detail in outputs.items()}
        self._shapes = {name: tuple(detail["shape"]) for name, detail in inputs.items()}
        self._allocated = True
        self._signature = Signature(
            artifact.package.manifest,
            inputs={name: _file_tensor(detail) for name, detail in inputs.items()},
            outputs={name: _file_tensor(detail) for name, detail in outputs.items()},
        )

    def run(self, feeds: Tensors) -> dict[str, Array]:
        """See `agent.runtimes.port.Runtime.run`."""
        return self._signature.run(feeds, self._infer)

    def close(self) -> None:
        """Free the interpreter."""
        self._interpreter = None

    def _infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self._fit(feeds)
        try:
            for name, array in feeds.items():
                self._interpreter.set_tensor(self._inputs[name], array)
            self._interpreter.invoke()
            return {
                name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()
            }
        except (ValueError, RuntimeError) as error:
            raise InferenceError(f"LiteRT failed: {error}") from None

    def _fit(self, feeds: dict[str, Array]) -> None:
        """Plan memory for the feeds' shapes when they differ from the last ones."""
        changed = {n: a.shape for n, a in feeds.items() if a.shape != self._shapes[n]}
        if not changed and self._allocated:
            return
        empty = [name for name, array in feeds.items() if array.size == 0]
        if empty:
            raise TensorError(
                f"inputs {empty}: LiteRT takes no empty tensors, send at least one value"
            )
        self._allocated = False
        try:
            for name, shape in changed.items():
                self._interpreter.resize_tensor_input(self._inputs[name], shape)
                self._shapes[name] = shape
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            shapes = {name: list(array.shape) for name, array in feeds.items()}
            raise TensorError(
                f"LiteRT cannot take the shapes {shapes} with this model: {error}"
            ) from None
        self._allocated = True


def _module() -> Any:
    reasons = []
    for name in MODULES:
        try:
            return importlib.import_module(f"{name}.interpreter")
        except ImportError as error:
            reasons.append(str(error))
    raise RuntimeMissingError(
        f"expected ai_edge_litert or tflite_runtime, found neither ({'; '.join(reasons)}); "
        "install outrider[litert]"
    )


def _file_tensor(detail: dict[str, Any]) -> FileTensor:
    scales = detail["quantization_parameters"]["scales"]
    zero_points = detail["quantization_parameters"]["zero_points"]
    dtype = np.dtype(detail["dtype"]).name
    if len(scales) != 1:
        return FileTensor(dtype)
    return FileTensor(dtype, float(scales[0]), int(zero_points[0]) if len(zero_points) else 0)
