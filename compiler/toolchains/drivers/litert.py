"""Driver of the toolchain ``litert``: ONNX to LiteRT, and quantization of the result.

Runs inside that toolchain's environment (see `compiler.toolchains.driver`), as a script of its own, with its modules
beside it. All operations but ``convert`` take the float file that it makes, and its bindings as ``inputs``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import litert_measure as measure
import ranges
from litert_convert import convert
from litert_file import LiteRtFile, census, ends, read_samples
from litert_quantize import Calibration, quantize
from litert_recipe import Settings

PRELOAD = (
    "onnx",
    "onnxsim",
    "onnx2tf",
    "ai_edge_litert.schema_py_generated",
    "ai_edge_quantizer.quantizer",
    "ai_edge_quantizer.utils.tfl_flatbuffer_utils",
)


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Import everything that the other operations need."""
    import ai_edge_litert.interpreter
    import ai_edge_quantizer
    import onnx
    import onnx2tf
    import onnxruntime
    import onnxsim

    modules = (ai_edge_litert, ai_edge_quantizer, onnx, onnx2tf, onnxruntime, onnxsim)
    return {"modules": [module.__name__ for module in modules]}


def converted(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` and ``samples.npz`` (``INDEX:NAME``) to ``model.tflite`` in float32.

    Options: ``shapes``, the shape per input that the file is fixed to.
    """
    import onnx

    model = onnx.load(str(inputs / "model.onnx"))
    samples = read_samples(inputs / "samples.npz")
    content, found = convert(model, samples, options["shapes"], outputs)
    return written(content, outputs) | {
        "inputs": found.inputs,
        "outputs": found.outputs,
        "difference": found.difference,
        "kernels": found.kernels,
        "layers": LiteRtFile(content).layers(),
    }


def ranged(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite`` and ``samples.npz`` to ``ranges.json``.

    Options: ``inputs``, ``calibrators``, ``levels`` (256 or 65536), ``symmetric``.
    """
    samples = read_samples(inputs / "samples.npz")
    found, means = measure.survey(read(inputs), samples, options["inputs"])
    calibrators = dict.fromkeys(["minmax", *options["calibrators"]])
    document = ranges.document(
        found, calibrators, levels=options["levels"], symmetric=options["symmetric"]
    )
    document["means"] = means
    (outputs / "ranges.json").write_text(json.dumps(document, sort_keys=True))
    return {
        "files": {"ranges": "ranges.json"},
        "tensors": len(found.histograms),
        "samples": len(samples),
    }


def quantized(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite``, and ``ranges.json`` where the mode is static, to a quantized ``model.tflite``.

    Options: see `litert_quantize.Settings`; ``calibrator``, which of the ranges are taken.
    """
    settings = Settings.of(options)
    found = quantize(read(inputs), settings, calibration(inputs, options))
    return written(found.content, outputs) | {
        **ends(found.content),
        "layers": found.layers,
        "fallen": found.fallen,
    }


def sensitivity(inputs: Path, _outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite``, ``ranges.json`` and ``samples.npz`` to each layer's part in the error.

    Options: as of ``quantize``, and ``layers``, the ones to measure; ``inputs``.
    """
    parts = measure.sensitivity(
        read(inputs),
        Settings.of(options),
        calibration(inputs, options) or Calibration(ranges={}),
        read_samples(inputs / "samples.npz"),
        options["inputs"],
        options["layers"],
    )
    return {"layers": parts}


def inspect(inputs: Path, _outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite``, ``quantized.tflite`` and ``samples.npz`` to errors per layer and histograms of weights."""
    file = read(inputs)
    suspect = LiteRtFile((inputs / "quantized.tflite").read_bytes())
    samples = read_samples(inputs / "samples.npz")
    return {
        "layers": measure.together(file, suspect, samples, options["inputs"]),
        "weights": measure.weights(file),
    }


def read(inputs: Path) -> LiteRtFile:
    """The float file that a job starts from."""
    return LiteRtFile((inputs / "model.tflite").read_bytes())


def calibration(inputs: Path, options: dict[str, Any]) -> Calibration | None:
    """What a job that has ranges knows of activations, by its calibrator."""
    if options["mode"] != "static":
        return None
    document = json.loads((inputs / "ranges.json").read_text())
    calibrator = options.get("calibrator") or "minmax"
    return Calibration(
        ranges={name: tuple(found[calibrator]) for name, found in document["tensors"].items()},
        means=document.get("means", {}),
    )


def written(content: bytes, outputs: Path) -> dict[str, Any]:
    """Write the file, and say what it holds."""
    (outputs / "model.tflite").write_bytes(content)
    return {"files": {"model": "model.tflite"}, **census(content)}


OPERATIONS = {
    "probe": probe,
    "convert": converted,
    "ranges": ranged,
    "quantize": quantized,
    "sensitivity": sensitivity,
    "inspect": inspect,
}
