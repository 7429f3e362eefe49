"""Biases that take back what rounding the weights of a LiteRT file adds to a layer's answers in the mean.

Laid beside the driver ``litert``. Rounding weights shifts each output channel by the mean of what the weights meet times
their rounding (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", 4.2, with
measured means). What the weights of a convolution meet in the mean depends on the place in the kernel, as padding adds
zeros at the edges: small maps have large edges.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from litert_file import LiteRtFile, text

Means = Mapping[str, list[Any]]
"""By an operator's scope, what its weights meet in the mean: [channels], or [height, width, channels] of the kernel."""

_CHANNEL_AXES: Final = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Axis of the output channel in an operator's weights."""


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """An operator with constant weights and a constant bias.

    Attributes:
        name: its scope.
        activation: the tensor that the weights are multiplied with.
        raw: the flatbuffer's operator.
    """

    name: str
    op: str
    activation: str
    weights: str
    bias: str
    raw: Any


def weighted(file: LiteRtFile) -> list[Weighted]:
    """Operators whose bias can be corrected."""
    found = []
    for raw, operator in zip(file.graph.operators, file.operators, strict=True):
        if operator.op not in _CHANNEL_AXES or len(raw.inputs) != 3 or -1 in raw.inputs:
            continue
        activation, weights, bias = (text(file.graph.tensors[index].name) for index in raw.inputs)
        if file.values(weights) is not None and file.values(bias) is not None:
            found.append(
                Weighted(
                    name=operator.name,
                    op=operator.op,
                    activation=activation,
                    weights=weights,
                    bias=bias,
                    raw=raw,
                )
            )
    return found


class MeanMaps:
    """Means of the activations that weights meet, over samples, by place."""

    def __init__(self, file: LiteRtFile) -> None:
        """Of a file's operators; nothing seen yet."""
        self._file = file
        self._operators = weighted(file)
        self._sums: dict[str, Any] = {one.activation: 0.0 for one in self._operators}
        self._counts = dict.fromkeys(self._sums, 0)

    def add(self, name: str, values: Any) -> None:
        """Take in a tensor of one sample; others than those that weights meet are left out."""
        if name in self._sums:
            self._sums[name] = self._sums[name] + values.sum(axis=0, dtype=np.float64)
            self._counts[name] += len(values)

    def met(self) -> dict[str, list[Any]]:
        """What the weights of each operator meet in the mean."""
        found = {}
        for one in self._operators:
            if not self._counts[one.activation]:
                continue
            mean = self._sums[one.activation] / self._counts[one.activation]
            if one.op == "FULLY_CONNECTED":
                mean = mean.reshape(-1, self._file.values(one.weights).shape[-1]).mean(axis=0)
            else:
                mean = _kernel_means(mean, self._file.values(one.weights).shape[1:3], one.raw)
            if np.isfinite(mean).all():
                found[one.name] = mean.tolist()
        return found


def _kernel_means(mean: Any, kernel: Iterable[int], raw: Any) -> Any:
    """Mean over all places of a kernel of what each of its elements meets: float64 [height, width, channels]."""
    options = raw.builtinOptions
    strides = (options.strideH, options.strideW)
    dilations = (options.dilationHFactor, options.dilationWFactor)
    rows, columns = (
        _places(size, length, stride, dilation, same=options.padding == 0)
        for size, length, stride, dilation in zip(
            mean.shape[:2], kernel, strides, dilations, strict=True
        )
    )
    # [kernel height, height] @ [height, width, channels] @ [width, kernel width]
    return np.einsum("kh,hwc,lw->klc", rows, mean, columns)


def _places(size: int, length: int, stride: int, dilation: int, *, same: bool) -> Any:
    """How often each element of a kernel meets each place along an axis, over the number of answers.

    Returns:
        float64 [length, size].
    """
    reach = (length - 1) * dilation + 1
    answers = -(-size // stride) if same else -(-(size - reach + 1) // stride)
    before = max((answers - 1) * stride + reach - size, 0) // 2 if same else 0
    found = np.zeros((length, size))
    for element in range(length):
        places = np.arange(answers) * stride + element * dilation - before
        inside = places[(places >= 0) & (places < size)]
        np.add.at(found[element], inside, 1.0 / answers)
    return found


def corrected(
    file: LiteRtFile, means: Means, bits: int, *, spare: Container[str] = ()
) -> LiteRtFile:
    """The file with biases that take back what rounding the weights adds in the mean.

    Args:
        file: in float.
        means: as `MeanMaps.met` gives them.
        bits: of the weights, which get a symmetric grid per output channel.
        spare: scopes of operators whose weights are not rounded.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = copy.copy(file.model)
    model.buffers = list(file.model.buffers)
    readers = _readers(file)
    for one in weighted(file):
        buffer = file.constants[one.bias].buffer
        if one.name not in means or one.name in spare or readers[buffer] > 1:
            continue
        met = np.asarray(means[one.name], np.float64)
        shift = _shift(file.values(one.weights), one.op, met, bits)
        bias = file.values(one.bias)
        if shift.shape == bias.shape:
            changed = copy.copy(model.buffers[buffer])
            changed.data = np.frombuffer((bias - shift).astype(np.float32).tobytes(), np.uint8)
            model.buffers[buffer] = changed
    return LiteRtFile(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))


def _shift(weights: Any, op: str, met: Any, bits: int) -> Any:
    """What the rounding of the weights adds to each output in the mean: float64 [output channels]."""
    axis = _CHANNEL_AXES[op]
    error = np.moveaxis(rounding(weights, axis, bits), axis, 0)
    channels = len(error)
    if op == "FULLY_CONNECTED":
        return error @ met
    if op == "DEPTHWISE_CONV_2D":
        each = np.repeat(met, channels // met.shape[-1], axis=-1)
        return np.einsum("cyx,yxc->c", error[:, 0], each)
    groups = met.shape[-1] // error.shape[-1]
    by_group = error.reshape(groups, channels // groups, *error.shape[1:])
    parts = met.reshape(*met.shape[:2], groups, error.shape[-1])
    return np.einsum("goyxi,yxgi->go", by_group, parts).reshape(-1)


def rounding(weights: Any, axis: int, bits: int) -> Any:
    """What the quantizer adds to weights: float64, of their shape."""
    others = tuple(at for at in range(weights.ndim) if at != axis)
    values = weights.astype(np.float64)
    top = 2 ** (bits - 1) - 1
    step = np.maximum(np.abs(values).max(axis=others, keepdims=True), 1e-9) / top
    return np.clip(np.rint(values / step), -top - 1, top) * step - values


def _readers(file: LiteRtFile) -> dict[int, int]:
    """How many operators read each buffer."""
    counts: dict[int, int] = {}
    for graph in file.model.subgraphs:
        for operator in graph.operators:
            for index in operator.inputs:
                if index != -1:
                    buffer = graph.tensors[index].buffer
                    counts[buffer] = counts.get(buffer, 0) + 1
    return counts
