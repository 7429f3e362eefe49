"""Driver of the toolchain ``onnx``: quantization by ONNX Runtime's own tools.

Runs inside that toolchain's environment (see `compiler.toolchains.driver`), as a script of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

INTEGERS = (2, 3)
"""TensorProto.UINT8 and INT8."""


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Import everything that the other operations need."""
    import onnx
    import onnxruntime
    import onnxruntime.quantization

    return {"modules": [module.__name__ for module in (onnx, onnxruntime)]}


def static(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` and ``samples.npz`` (``INDEX:NAME``) to a QDQ model.

    Options: ``activation`` and ``weight`` (int8 or uint8), ``per_channel``, ``reduce_range``,
    ``calibrator`` (MinMax, Percentile, Entropy), ``operators`` (all when empty), and ``tensorrt`` for the form that TensorRT parses.
    """
    from onnxruntime import quantization as q

    source = prepared(inputs / "model.onnx", outputs)
    kinds = {"int8": q.QuantType.QInt8, "uint8": q.QuantType.QUInt8}
    # Its adjustment of weight scales to int32 biases raises on some weights; where elementwise operators
    # stay in float there are hardly any such biases.
    extra: dict[str, Any] = {"QDQDisableWeightAdjustForInt32Bias": bool(options["operators"])}
    if options.get("tensorrt"):
        # Its parser refuses int32 biases.
        extra |= {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    file = outputs / "quantized.onnx"
    q.quantize_static(
        str(source),
        str(file),
        Reader(inputs / "samples.npz"),
        quant_format=q.QuantFormat.QDQ,
        op_types_to_quantize=options["operators"] or None,
        activation_type=kinds[options["activation"]],
        weight_type=kinds[options["weight"]],
        per_channel=options["per_channel"],
        reduce_range=options["reduce_range"],
        calibrate_method=q.CalibrationMethod[options["calibrator"]],
        calibration_providers=["CPUExecutionProvider"],
        extra_options=extra,
    )
    return finished(file)


def dynamic(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to a model with int8 weights whose activations are quantized as it runs."""
    from onnxruntime import quantization as q

    source = prepared(inputs / "model.onnx", outputs)
    file = outputs / "quantized.onnx"
    q.quantize_dynamic(
        str(source),
        str(file),
        per_channel=options["per_channel"],
        reduce_range=options["reduce_range"],
        weight_type=q.QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm", "LSTM", "Gather"],
    )
    return finished(file)


def prepared(path: Path, outputs: Path) -> Path:
    """The model with inferred shapes and folded constants, which the quantizer needs."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = outputs / "prepared.onnx"
    quant_pre_process(str(path), str(target), skip_symbolic_shape=True)
    return target


def finished(file: Path) -> dict[str, Any]:
    """Check the file by loading it, and count its operators."""
    import onnx
    import onnxruntime as ort

    model = onnx.load(str(file))
    onnx.checker.check_model(model)
    ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    weights = sum(t.data_type in INTEGERS for t in model.graph.initializer if len(t.dims) > 1)
    return {
        "files": {"model": file.name},
        "operators": dict(sorted(counts.items())),
        "quantized_weights": weights,
    }


class Reader:
    """Calibration samples in the form that the quantizer asks for."""

    def __init__(self, path: Path) -> None:
        """Read an npz whose arrays are named ``INDEX:NAME``."""
        with np.load(path, allow_pickle=False) as archive:
            found: dict[int, dict[str, Any]] = {}
            for key in archive.files:
                index, _, name = key.partition(":")
                found.setdefault(int(index), {})[name] = archive[key]
        self._next: Iterator[dict[str, Any]] = iter([found[index] for index in sorted(found)])

    def get_next(self) -> dict[str, Any] | None:
        """The next feed, or None at the end."""
        return next(self._next, None)


OPERATIONS = {"probe": probe, "static": static, "dynamic": dynamic}
