"""Static quantization of ONNX models: ranges that were chosen elsewhere, ONNX Runtime's quantizer, and its moods.

Laid beside the driver ``onnx_qdq``. Rules:
- Ranges come in; nothing is calibrated here. Means come with them, and biases make up for rounded weights.
- The quantizer raises on the whole model where it cannot do one node. That node is found, and stays in float;
  so does a node whose activations have no range.
- What could not be quantized is said, by layer, with the reason.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import onnx
from onnx_bias import corrected, rounded_weights
from onnx_graph import FOLLOWERS, activations, followers, layers, session

Made = TypeVar("Made")
Spans = Mapping[str, Mapping[str, Sequence[float]]]

_NONE: Final = "(none)"
_SMALLEST: Final = float(np.finfo(np.float32).tiny) * 65536


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is to be quantized.

    Attributes:
        activation, weight: int8 or uint8.
        operators: types that are layers here; all when empty.
        tensorrt: the form that TensorRT parses: symmetric, biases in float, only inputs of layers quantized.
        kept: layers that stay in the refuge.
        refuge: float, or int16 for activations of 16 bits around them.
    """

    activation: str
    weight: str
    per_channel: bool
    reduce_range: bool
    calibrator: str
    operators: tuple[str, ...] = ()
    tensorrt: bool = False
    kept: tuple[str, ...] = ()
    refuge: str = "float"

    @property
    def wide(self) -> bool:
        """Whether kept layers get activations of 16 bits instead of staying in float."""
        return self.refuge == "int16" and not self.tensorrt

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """From the options of an operation."""
        return cls(
            activation=options["activation"],
            weight=options["weight"],
            per_channel=options["per_channel"],
            reduce_range=options["reduce_range"],
            calibrator=options["calibrator"],
            operators=tuple(options.get("operators", ())),
            tensorrt=bool(options.get("tensorrt", False)),
            kept=tuple(options.get("kept", ())),
            refuge=options.get("refuge", "float"),
        )


@dataclass(frozen=True)
class Ranges:
    """What was found about activations.

    Attributes:
        tensors: by tensor, then by calibrator, the smallest and the largest value.
        means: by tensor that goes into a layer with a bias, the mean of each channel.
    """

    tensors: Spans
    means: Mapping[str, Sequence[float]]

    @classmethod
    def read(cls, path: Path) -> Ranges:
        """From ``ranges.json``."""
        document = json.loads(path.read_bytes())
        return cls(document["tensors"], document.get("means", {}))


@dataclass
class Quantized:
    """A model, the layers that are quantized in it, and why others are not."""

    model: onnx.ModelProto
    layers: list[str]
    fallen: dict[str, str] = field(default_factory=dict)


def quantize(model: onnx.ModelProto, ranges: Ranges, settings: Settings) -> Quantized:
    """The model with its layers quantized, but for the kept ones and those that cannot be.

    Raises:
        RuntimeError: there is no layer that can be.
    """
    chosen = chosen_layers(model, settings)
    reasons = unusable(model, ranges.tensors)
    usable = [name for name in chosen if name not in reasons]

    def attempt(names: Sequence[str]) -> onnx.ModelProto:
        made = only(model, names, ranges.tensors, settings, reasons)
        onnx.checker.check_model(made)
        session(made, optimized=True)
        return made

    made, raised = settle(usable, attempt)
    fallen = {name: reasons[name] for name in chosen if name in reasons} | raised
    if len(fallen) == len(chosen):
        first = next(iter(fallen.values()), "it has none of the operators, or all are kept")
        raise RuntimeError(f"expected layers that can be quantized, found none: {first}")
    names = [name for name in usable if name not in raised]
    better = corrected(model, rounded_weights(made), ranges.means)
    return Quantized(
        model=only(better, names, ranges.tensors, settings, reasons),
        layers=names,
        fallen=fallen,
    )


def chosen_layers(model: onnx.ModelProto, settings: Settings) -> list[str]:
    """Names of the layers that the settings ask to be quantized, whether that is possible or not."""
    refused = () if settings.wide else settings.kept
    return [
        node.name
        for node in layers(model)
        if (not settings.operators or node.op_type in settings.operators)
        and node.name not in refused
    ]


def settle(
    names: Sequence[str], attempt: Callable[[Sequence[str]], Made]
) -> tuple[Made, dict[str, str]]:
    """What the attempt makes of as many names as it can do, and why the others raise.

    Each culprit is the last name of the shortest list of first names that raises, found by halving; so a name that
    raises only beside another one is found, too.

    Raises:
        Exception: whatever the attempt raises for no names at all.
    """
    live = list(names)
    fallen: dict[str, str] = {}
    while True:
        try:
            return attempt(live), fallen
        except Exception as error:  # noqa: BLE001 - whatever the tool raises, one node is to blame
            reason = said(error)
        passes, raises = 0, len(live)
        if not live:
            return attempt(()), fallen
        while raises - passes > 1:
            middle = (passes + raises) // 2
            try:
                attempt(live[:middle])
            except Exception as error:  # noqa: BLE001 - as above
                raises, reason = middle, said(error)
            else:
                passes = middle
        fallen[live.pop(raises - 1)] = reason


def said(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def unusable(model: onnx.ModelProto, tensors: Spans) -> dict[str, str]:
    """Why a node's activations cannot be scaled, for the nodes where they cannot."""
    missing = {}
    for name in activations(model):
        if name not in tensors:
            missing[name] = f"no range of {name!r} was found"
        elif tensors[name]["minmax"][1] - tensors[name]["minmax"][0] < _SMALLEST:
            missing[name] = f"{name!r} was never other than zero in calibration"
    return {
        node.name: missing[name]
        for node in model.graph.node
        for name in (*node.input, *node.output)
        if name in missing
    }


def only(
    model: onnx.ModelProto,
    names: Sequence[str],
    tensors: Spans,
    settings: Settings,
    blocked: Container[str],
) -> onnx.ModelProto:
    """The model with these layers quantized, and what follows them.

    Args:
        model: a prepared one.
        names: of the layers.
        tensors: ranges by tensor, then by calibrator.
        settings: how.
        blocked: nodes that must not follow, see `unusable`.

    Raises:
        Exception: ONNX Runtime's quantizer could not do one of them.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    kinds = {"int8": QuantType.QInt8, "uint8": QuantType.QUInt8}
    types = sorted({node.op_type for node in model.graph.node})
    chosen = list(names)
    extra: dict[str, Any] = {}
    if settings.tensorrt:
        # Its parser refuses int32 biases, and it fuses what stands behind a layer by itself.
        extra |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        extra["OpTypesToExcludeOutputQuantization"] = types
    else:
        chosen += followers(model, names, blocked)
    wide = around(model, [name for name in settings.kept if name in names]) if settings.wide else ()
    if wide:
        sixteen = QuantType.QInt16 if settings.activation == "int8" else QuantType.QUInt16
        extra["TensorQuantOverrides"] = {name: [{"quant_type": sixteen}] for name in sorted(wide)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    touched = {
        name
        for node in model.graph.node
        if node.name in set(chosen)
        for name in (*node.input, *node.output)
    }
    logging.disable(logging.WARNING)
    quantizer = QDQQuantizer(
        copy,
        settings.per_channel,
        settings.reduce_range,
        kinds[settings.weight],
        kinds[settings.activation],
        TensorsData(
            CalibrationMethod.MinMax,
            {
                name: span(found["minmax" if name in wide else settings.calibrator])
                for name, found in tensors.items()
                if name in touched
            },
        ),
        chosen or [_NONE],  # an empty list means all of them
        [],
        types,
        extra,
    )
    made: onnx.ModelProto = quantizer.quantize_model()
    quantizer.model.topological_sort()
    return made


def span(found: Sequence[float]) -> tuple[np.float32, np.float32]:
    """A range as the quantizer wants it."""
    return np.float32(found[0]), np.float32(found[1])


def around(model: onnx.ModelProto, names: Sequence[str]) -> set[str]:
    """Activations that go into or come out of these nodes, and what only moves or clips them."""
    chosen = set(names)
    constants = {tensor.name for tensor in model.graph.initializer}
    found: set[str] = set()
    for node in model.graph.node:
        if node.name in chosen or (
            node.op_type in FOLLOWERS and any(name in found for name in node.input)
        ):
            found.update(name for name in (*node.input, *node.output) if name)
    return (found - constants) & set(activations(model))
