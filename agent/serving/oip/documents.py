"""The documents of the protocol: server and model metadata, index, statistics.

Rules:
- An input with a pre-processing is advertised as applications should send it (raw); the model's own datatype and
  shape stand under its ``parameters``, and are accepted too.
- ``-1`` is a dimension that may vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

from agent.serving.oip.datatypes import DATATYPE
from agent.serving.statistics import Totals
from fleet.artifact import preprocess
from fleet.artifact.manifest import InputSpec, Manifest, TensorSpec

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
_PLATFORMS = {"onnxruntime": "onnx_onnxruntime", "litert": "tflite_litert"}
_TO_RAW = {("NHWC", "NCHW"): (0, 2, 3, 1), ("NCHW", "NHWC"): (0, 3, 1, 2)}


def server() -> dict[str, Any]:
    """Answer of ``/v2``."""
    return {
        "name": "outrider",
        "version": metadata.version("outrider"),
        "extensions": list(EXTENSIONS),
    }


def model(manifest: Manifest, *, name: str, version: str) -> dict[str, Any]:
    """Answer of ``/v2/models/M``."""
    return {
        "name": name,
        "versions": [version],
        "platform": _PLATFORMS.get(manifest.runtime, manifest.runtime),
        "inputs": [_input(spec) for spec in manifest.inputs],
        "outputs": [_tensor(spec) for spec in manifest.outputs],
        "parameters": {
            "task": manifest.task,
            "runtime": manifest.runtime,
            "recipe": manifest.recipe,
            "licence": manifest.licence,
        },
    }


def index(*, name: str, version: str) -> list[dict[str, Any]]:
    """Answer of ``/v2/repository/index``."""
    return [{"name": name, "version": version, "state": "READY", "reason": ""}]


def statistics(totals: Totals, *, name: str, version: str) -> dict[str, Any]:
    """Answer of ``/v2/models/M/stats``; durations in nanoseconds."""
    spent_ns = totals.queue_ns + totals.compute_ns
    one = {
        "name": name,
        "version": version,
        "last_inference": totals.last_ms,
        "inference_count": totals.samples,
        "execution_count": totals.requests,
        "inference_stats": {
            "success": {"count": totals.requests, "ns": spent_ns},
            "fail": {"count": totals.failures, "ns": totals.failed_ns},
            "queue": {"count": totals.requests, "ns": totals.queue_ns},
            "compute_infer": {"count": totals.requests, "ns": totals.compute_ns},
        },
        "batch_stats": [],
    }
    return {"model_stats": [one]}


def raw_shape(spec: InputSpec) -> Sequence[int | None]:
    """The shape of what applications send, given the shape of the model's tensor."""
    rule = spec.preprocessing
    axes = _TO_RAW.get((rule.raw_layout, rule.layout)) if rule else None
    if axes is None or len(spec.shape) != len(axes):
        return spec.shape
    return [spec.shape[axis] for axis in axes]


def _input(spec: InputSpec) -> dict[str, Any]:
    rule = spec.preprocessing
    if rule is None or not preprocess.is_raw(spec, rule.raw_dtype):
        return _tensor(spec)
    own = _tensor(spec)
    raw = TensorSpec(name=spec.name, dtype=rule.raw_dtype, shape=list(raw_shape(spec)))
    return {
        **_tensor(raw),
        "parameters": {"model_datatype": own["datatype"], "model_shape": own["shape"]},
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "datatype": DATATYPE[spec.dtype],
        "shape": [-1 if size is None else size for size in spec.shape],
    }
