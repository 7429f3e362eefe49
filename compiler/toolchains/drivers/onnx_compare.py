"""What quantization costs, layer by layer: one layer quantized at a time, or all of them as they run together.

Laid beside the driver ``onnx_qdq``. Rules:
- Everything runs without optimizations: what is measured is the model, not one processor's kernels.
- Errors are relative to the energy of what the float model says; 0 dB is as much error as signal.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx_bias import corrected, rounded_weights
from onnx_graph import activations, in_parts, layers, progress, session, standing_for, walk
from onnx_static import Ranges, Settings, only, quantize, said, unusable

MOST_DB: Final = 200.0
_SHOWN_WEIGHTS: Final = 64
_BINS: Final = 64


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


def relative_noise(expected: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> float:
    """Energy of the error over the energy of the answers, the mean over the outputs.

    Args:
        expected: by sample, then by output.
        found: the same, of the other model; an answer that is no number counts as zero.
    """
    shares = []
    for one, other in zip(zip(*expected, strict=True), zip(*found, strict=True), strict=True):
        reference = np.concatenate([np.ravel(array) for array in one]).astype(np.float64)
        answer = np.concatenate([np.ravel(array) for array in other]).astype(np.float64)
        shares.append(Deviation.of(reference, answer).noise)
    return float(np.mean(shares))


def decibels(noise: float) -> float:
    """Signal to noise, no more than `MOST_DB` in size."""
    floor = 10.0 ** (-MOST_DB / 10)
    return float(np.clip(-10.0 * np.log10(max(noise, floor)), -MOST_DB, MOST_DB))


@dataclass
class Deviation:
    """Sums over values of a tensor that two models give."""

    signal: float = 0.0
    answer: float = 0.0
    product: float = 0.0
    noise_energy: float = 0.0
    max_abs: float = 0.0

    @classmethod
    def of(cls, reference: Any, answer: Any) -> Deviation:
        """Of one pair of arrays."""
        made = cls()
        made.add(reference, answer)
        return made

    def add(self, reference: Any, answer: Any) -> None:
        """Take in a pair of arrays with as many values each; what is not finite counts as zero there."""
        a = np.ravel(reference).astype(np.float64)
        b = np.ravel(answer).astype(np.float64)
        a = np.where(np.isfinite(a), a, 0.0)
        b = np.where(np.isfinite(b), b, 0.0)
        self.signal += float(a @ a)
        self.answer += float(b @ b)
        self.product += float(a @ b)
        difference = a - b
        self.noise_energy += float(difference @ difference)
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))

    @property
    def noise(self) -> float:
        """Energy of the error relative to the signal's; 1 at most where there is no signal."""
        if self.signal == 0.0:
            return float(self.noise_energy > 0.0)
        return self.noise_energy / self.signal

    @property
    def cosine(self) -> float:
        """Cosine similarity; 1 for two zeros."""
        if self.signal == 0.0 or self.answer == 0.0:
            return float(self.signal == self.answer)
        return self.product / float(np.sqrt(self.signal) * np.sqrt(self.answer))


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


def histogram(array: Any) -> dict[str, Any]:
    """Counts of an array's values between its smallest and its largest."""
    finite = array[np.isfinite(array)]
    lo, hi = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    counts, _ = np.histogram(finite, bins=_BINS, range=(lo, hi if hi > lo else lo + 1.0))
    return {"lo": lo, "hi": hi, "counts": [int(count) for count in counts]}
