"""Driver of the toolchain ``onnx``: quantization by ONNX Runtime's own tools.

Runs inside that toolchain's environment (see `compiler.toolchains.driver`), as a script of its own, with its modules
beside it. ``ranges``, ``static``, ``dynamic``, ``fp16`` and ``sensitivity`` take the model that ``prepare`` makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_bias
import onnx_compare
import onnx_static
import ranges as ranging
from harness import progress
from onnx_graph import (
    activations,
    in_parts,
    layers,
    operators,
    prepare,
    read_samples,
    session,
    walk,
)

PRELOAD = ("onnxruntime.quantization.shape_inference", "onnxruntime.quantization.qdq_quantizer")

INTEGERS = (2, 3)
"""TensorProto.UINT8 and INT8."""

DYNAMIC = ("MatMul", "Gemm", "LSTM", "Gather", "Attention")


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Import everything that the other operations need."""
    import onnxruntime
    import onnxruntime.quantization
    import onnxruntime.transformers.float16

    return {"modules": [module.__name__ for module in (onnx, onnxruntime)]}


def prepared(inputs: Path, outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to the model that all other operations take, and the layers that it has."""
    model = prepare(inputs / "model.onnx", outputs)
    session(model)
    return written(model, outputs) | {
        "layers": [{"name": node.name, "op": node.op_type} for node in layers(model)],
        "operators": operators(model),
    }


def ranges(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` and ``samples.npz`` (``INDEX:NAME``) to ``ranges.json``.

    Options: ``calibrators``, ``levels`` (256 or 65536), ``symmetric``.
    """
    model = onnx.load(str(inputs / "model.onnx"))
    samples = read_samples(inputs / "samples.npz")
    parts = in_parts(model, activations(model), samples[0])
    means = onnx_bias.Means(model)
    values = len(samples) * sum(map(len, parts))
    seen = iter(range(2 * values))

    def passes() -> Iterator[tuple[str, Any]]:
        for name, array in walk(model, parts, samples, optimized=True):
            at = next(seen)
            if at < values:
                means.add(name, array)
            if at % len(samples) == 0:
                progress(at, 2 * values, "ranges of activations")
            yield name, array

    calibrators = dict.fromkeys(["minmax", *options["calibrators"]])
    document = ranging.document(
        ranging.survey(passes),
        calibrators,
        levels=options["levels"],
        symmetric=options["symmetric"],
    )
    document["means"] = means.found()
    (outputs / "ranges.json").write_text(json.dumps(document, sort_keys=True))
    return {
        "files": {"ranges": "ranges.json"},
        "tensors": len(document["tensors"]),
        "samples": len(samples),
    }


def static(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` and ``ranges.json`` to a QDQ model. Options: see `onnx_static.Settings`."""
    model = onnx.load(str(inputs / "model.onnx"))
    found = onnx_static.quantize(
        model,
        onnx_static.Ranges.read(inputs / "ranges.json"),
        onnx_static.Settings.of(options),
    )
    return finished(found.model, outputs, found.layers, found.fallen)


def dynamic(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to a model with int8 weights whose activations are quantized as it runs.

    Options: ``per_channel``, ``reduce_range``.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = inputs / "model.onnx"
    names = [node.name for node in onnx.load(str(source)).graph.node if node.op_type in DYNAMIC]

    def attempt(chosen: Sequence[str]) -> onnx.ModelProto:
        target = outputs / "attempt.onnx"
        quantize_dynamic(
            str(source),
            str(target),
            per_channel=options["per_channel"],
            reduce_range=options["reduce_range"],
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(DYNAMIC),
            # It makes a MatMul of each Gemm before it looks for names, and an empty list means all.
            nodes_to_quantize=[*chosen, *(f"{name}_MatMul" for name in chosen), "(none)"],
        )
        made = onnx.load(str(target))
        target.unlink()
        session(made, optimized=True)
        return made

    made, fallen = onnx_static.settle(names, attempt)
    return finished(made, outputs, [name for name in names if name not in fallen], fallen)


def fp16(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to float16 inside, float32 inputs and outputs. Options: ``kept``, names of nodes."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = onnx.load(str(inputs / "model.onnx"))
    names = [node.name for node in source.graph.node if node.name not in options.get("kept", ())]

    def attempt(chosen: Sequence[str]) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(source)
        blocked = {node.name for node in source.graph.node} - set(chosen)
        made: onnx.ModelProto = convert_float_to_float16(
            copy, keep_io_types=True, node_block_list=sorted(blocked)
        )
        ONNXModel(made).topological_sort()
        session(made, optimized=True)
        return made

    made, fallen = onnx_static.settle(names, attempt)
    return finished(made, outputs, [name for name in names if name not in fallen], fallen)


def sensitivity(inputs: Path, _outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx``, ``ranges.json``, ``samples.npz``: what each of ``layers`` costs when it alone is quantized."""
    found: dict[str, Any] = onnx_compare.sensitivity(
        onnx.load(str(inputs / "model.onnx")),
        onnx_static.Ranges.read(inputs / "ranges.json"),
        read_samples(inputs / "samples.npz"),
        onnx_static.Settings.of(options),
        options["layers"],
    )
    return found


def inspect(inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx``, ``quantized.onnx``, ``samples.npz``: errors of layers, histograms of weights."""
    model = onnx.load(str(inputs / "model.onnx"))
    quantized = onnx.load(str(inputs / "quantized.onnx"))
    samples = read_samples(inputs / "samples.npz")
    return {
        "layers": onnx_compare.together(model, quantized, samples),
        "weights": onnx_compare.weights(model),
    }


def written(model: onnx.ModelProto, outputs: Path) -> dict[str, Any]:
    """Write the model, the same bytes for the same model."""
    (outputs / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    return {"files": {"model": "model.onnx"}}


def finished(
    model: onnx.ModelProto, outputs: Path, quantized: Sequence[str], fallen: dict[str, str]
) -> dict[str, Any]:
    """Check a model, write it, and say what it is made of."""
    onnx.checker.check_model(model)
    session(model)
    weights = sum(t.data_type in INTEGERS for t in model.graph.initializer if len(t.dims) > 1)
    return written(model, outputs) | {
        "operators": operators(model),
        "quantized_weights": weights,
        "layers": list(quantized),
        "fallen": dict(fallen),
    }


OPERATIONS = {
    "probe": probe,
    "prepare": prepared,
    "ranges": ranges,
    "static": static,
    "dynamic": dynamic,
    "fp16": fp16,
    "sensitivity": sensitivity,
    "inspect": inspect,
}
