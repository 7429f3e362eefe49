"""ONNX Runtime on the CPU.

Rules:
- The model is loaded from the bytes that were verified, never from a path.
- `Options.exact` turns graph optimizations off: fused int8 kernels of a CPU without VNNI saturate, and
  would speak of the host rather than of the artifact.
"""

from __future__ import annotations

import importlib
from typing import Any

from agent.errors import InferenceError, LoadError, RuntimeMissingError
from agent.runtimes.port import Options, Runtime, Tensors
from agent.runtimes.tensors import Array, FileTensor, Signature
from ota.verify.artifact import VerifiedArtifact

MODULES = ("onnxruntime",)
_LOG_ERRORS = 3
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


def open_onnxruntime(artifact: VerifiedArtifact, options: Options) -> Runtime:
    """Load an artifact's payload into a session.

    Raises:
        RuntimeMissingError: onnxruntime cannot be imported.
        LoadError: the session refuses the file, or the file is not what the manifest says.
    """
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise RuntimeMissingError(
            f"expected onnxruntime, found none ({error}); install outrider[onnx]"
        ) from None
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = _LOG_ERRORS
    if options.exact:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            artifact.package.payload, settings, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # noqa: BLE001 - its exceptions share no base of their own
        raise LoadError(f"ONNX Runtime refused the model: {error}") from None
    return OnnxRuntime(session, artifact)


class OnnxRuntime:
    """A session behind the runtime port; for one thread."""

    def __init__(self, session: Any, artifact: VerifiedArtifact) -> None:
        """Bind a session."""
        self._session = session
        self._signature = Signature(
            artifact.package.manifest,
            inputs={node.name: _file_tensor(node) for node in session.get_inputs()},
            outputs={node.name: _file_tensor(node) for node in session.get_outputs()},
        )
        self._outputs = [slot.tensor for slot in self._signature.outputs]

    def run(self, feeds: Tensors) -> dict[str, Array]:
        """See `agent.runtimes.port.Runtime.run`."""
        return self._signature.run(feeds, self._infer)

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _infer(self, feeds: dict[str, Array]) -> dict[str, Array]:
        try:
            answers = self._session.run(self._outputs, feeds)
        except Exception as error:  # noqa: BLE001 - its exceptions share no base of their own
            raise InferenceError(f"ONNX Runtime failed: {error}") from None
        return dict(zip(self._outputs, answers, strict=True))


def _file_tensor(node: Any) -> FileTensor:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise LoadError(
            f"tensor {node.name!r}: expected one of {', '.join(_DTYPES)}, found {node.type}"
        )
    return FileTensor(dtype)
