"""What quantization costs, layer by layer: one layer quantized at a time, or all of them as they run together.

Laid beside the driver ``onnx_qdq``. Rules:
- Everything runs without optimizations: what is measured is the model, not one processor's kernels.
- Errors are relative to the energy of what the float model says; 0 dB is as much error as signal.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Final

import numpy as np
import onnx
from deviations import Deviation, decibels, histogram, relative_noise
from harness import progress
from onnx_bias import corrected, rounded_weights
from onnx_graph import activations, in_parts, layers, session, standing_for, walk
from onnx_static import Ranges, Settings, only, quantize, said, unusable

_SHOWN_WEIGHTS: Final = 64


def sensitivity(
    model: onnx.ModelProto,
    ranges: Ranges,
    samples: Sequence[dict[str, Any]],
    settings: Settings,
    names: Sequence[str],
) -> dict[str, Any]:
    """How much the outputs suffer from each of the layers, when it alone is quantized.

    Returns:
        ``layers``, and under ``fallen`` why a layer is not among them.
    """
    outputs = [info.name for info in model.graph.output]
    float_session = session(model)
    expected = [float_session.run(outputs, feed) for feed in samples]
    blocked = unusable(model, ranges.tensors)
    rounded = rounded_weights(quantize(model, ranges, settings).model)
    found: list[dict[str, Any]] = []
    fallen: dict[str, str] = {}
    types = {node.name: node.op_type for node in model.graph.node}
    for index, name in enumerate(names):
        progress(index, len(names), f"sensitivity of {name}")
        if name not in types or name in blocked:
            fallen[name] = blocked.get(name, "the model has no layer of this name")
            continue
        try:
            source = corrected(model, rounded, ranges.means, alone=name)
            alone = session(only(source, [name], ranges.tensors, settings, blocked))
        except Exception as error:  # noqa: BLE001 - the quantizer raises whatever it likes on one node
            fallen[name] = said(error)
            continue
        answers = [alone.run(outputs, feed) for feed in samples]
        noise = relative_noise(expected, answers)
        found.append({"name": name, "op": types[name], "noise": noise, "snr_db": decibels(noise)})
    progress(len(names), len(names), "sensitivity")
    return {"layers": found, "fallen": fallen}


def together(
    model: onnx.ModelProto, quantized: onnx.ModelProto, samples: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """How far each layer's output is from the float model's, as both models run."""
    there = standing_for(quantized)
    floats = set(activations(model))
    by_output = {
        name: node
        for node in layers(model)
        if (name := visible(model, node, there)) in floats and name in there
    }
    errors = {name: Deviation() for name in by_output}
    parts = in_parts(model, by_output, samples[0])
    pairs = zip(
        walk(model, parts, samples, optimized=False),
        walk(
            quantized, [[there[name] for name in part] for part in parts], samples, optimized=False
        ),
        strict=True,
    )
    for index, ((name, expected), (_, found)) in enumerate(pairs):
        progress(index, len(samples) * len(by_output), "errors of layers")
        errors[name].add(expected, found)
    return [
        {
            "name": node.name,
            "op": node.op_type,
            "snr_db": decibels(errors[name].noise),
            "cosine": errors[name].cosine,
            "max_abs": errors[name].max_abs,
        }
        for name, node in by_output.items()
    ]


def visible(model: onnx.ModelProto, node: onnx.NodeProto, there: Container[str]) -> str:
    """The tensor that shows what a layer gives: its output, or that of the Relu or Clip which it was fused with."""
    name: str = node.output[0]
    users = [one for one in model.graph.node if name in one.input]
    fused = len(users) == 1 and users[0].op_type in {"Relu", "Clip"}
    return users[0].output[0] if fused and name not in there else name


def weights(model: onnx.ModelProto) -> dict[str, dict[str, Any]]:
    """Histograms of the largest float weights."""
    found = [
        tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1
    ]
    found.sort(key=lambda tensor: (-int(np.prod(tensor.dims)), tensor.name))
    shown = {}
    for tensor in found[:_SHOWN_WEIGHTS]:
        array = onnx.numpy_helper.to_array(tensor)
        shown[tensor.name] = histogram(array.astype(np.float64)) | {"shape": list(array.shape)}
    return shown
