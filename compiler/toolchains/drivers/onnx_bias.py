"""Bias correction: what rounding the weights adds to a layer's output on average is taken out of its bias.

Finkelstein, Almog, Grobman 2019, "Fighting Quantization Bias With Bias"; Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.2. A layer W x + b with the rounded weights
Q errs by (Q - W) E[x] on average, which needs no more than the mean of each channel of x.

Laid beside the driver ``onnx_qdq``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class Means:
    """Mean of each channel of the tensors that go into layers which have a bias."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """None seen yet."""
        self._axis = {
            node.input[0]: 1 if node.op_type == "Conv" else -1 for node, _, _ in layers(model)
        }
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, values: Any) -> None:
        """Take a tensor's values in."""
        axis = self._axis.get(name)
        if axis is None or values.ndim < 2:
            return
        channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        total = channels.sum(axis=1, dtype=np.float64)
        if name in self._sums and self._sums[name].shape != total.shape:
            del self._axis[name]
            return
        self._sums[name] = self._sums.get(name, 0.0) + total
        self._counts[name] = self._counts.get(name, 0) + channels.shape[1]

    def found(self) -> dict[str, list[float]]:
        """The means by tensor, for ``ranges.json``."""
        means = {name: self._sums[name] / max(self._counts[name], 1) for name in self._sums}
        return {
            name: [float(value) for value in mean]
            for name, mean in sorted(means.items())
            if name in self._axis and np.isfinite(mean).all()
        }


def layers(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, Any, Any]]:
    """Convolutions and matrix products with their weight and bias, where both are theirs alone."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    return [
        (node, tensors[node.input[1]], tensors[node.input[2]])
        for node in model.graph.node
        if node.op_type in {"Conv", "Gemm"}
        and len(node.input) > 2
        and node.input[1] in tensors
        and node.input[2] in tensors
        and uses[node.input[2]] == 1
    ]


def corrected(
    model: onnx.ModelProto,
    rounded: Mapping[str, Any],
    means: Mapping[str, Sequence[float]],
    alone: str = "",
) -> onnx.ModelProto:
    """The float model with biases that make up for rounded weights.

    Args:
        model: in float.
        rounded: see `rounded_weights`.
        means: by tensor, of each channel.
        alone: the one layer whose bias is to be corrected; all of them when empty.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node, weight, bias in layers(made):
        if alone and node.name != alone:
            continue
        if weight.name not in rounded or node.input[0] not in means:
            continue
        error = rounded[weight.name] - numpy_helper.to_array(weight).astype(np.float64)
        shift = mean_error(node, error, np.asarray(means[node.input[0]], np.float64))
        before = numpy_helper.to_array(bias)
        if shift is not None and shift.size == before.size and np.isfinite(shift).all():
            after = (before - shift.reshape(before.shape)).astype(before.dtype)
            bias.CopyFrom(numpy_helper.from_array(after, bias.name))
    return made


def mean_error(node: onnx.NodeProto, error: Any, mean: Any) -> Any:
    """What an error of the weights adds to each channel of the output on average; None where shapes do not fit.

    Args:
        node: Conv or Gemm.
        error: of the weights, [out, in / group, ...] for Conv, [in, out] or its transpose for Gemm.
        mean: of the input, [in].
    """
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Gemm":
        matrix = error if attributes.get("transB", 0) else error.T
        if attributes.get("transA", 0) or matrix.shape[1] != mean.size:
            return None
        return matrix @ mean * attributes.get("alpha", 1.0) / (attributes.get("beta", 1.0) or 1.0)
    group = attributes.get("group", 1)
    taps = error.reshape(*error.shape[:2], -1).sum(axis=2)
    if taps.shape[1] * group != mean.size or taps.shape[0] % group:
        return None
    inputs = np.repeat(mean.reshape(group, -1), taps.shape[0] // group, axis=0)
    return (taps * inputs).sum(axis=1)


def rounded_weights(quantized: onnx.ModelProto) -> dict[str, Any]:
    """Values of the quantized weights by the name that they have in the float model, float64."""
    tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
    suffix = "_DequantizeLinear_Output"
    found = {}
    for node in quantized.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        values, scale, zero = (
            numpy_helper.to_array(tensors[name]).astype(np.float64) for name in node.input
        )
        if scale.size > 1:
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            shape = [1] * values.ndim
            shape[axis] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        found[node.output[0].removesuffix(suffix)] = (values - zero) * scale
    return found
