"""Peer of the LiteRT backend: ai-edge-quantizer with its defaults, and the whole job by hand.

A driver of the toolchain ``litert`` (see `compiler.toolchains.driver`), with our driver's modules beside it only for
reading samples and for telling which tensor is which, which a person would do by hand.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from litert_file import LiteRtFile, census, ends, read_samples


def defaults(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite`` and ``samples.npz`` to static int8 by the quantizer's own recipe and calibration."""
    content = static_int8(inputs / "model.tflite", inputs / "samples.npz", options["inputs"])
    (outputs / "model.tflite").write_bytes(content)
    return {"files": {"model": "model.tflite"}, **census(content), **ends(content)}


def static_int8(model: Path, samples: Path, bindings: list[dict[str, Any]]) -> bytes:
    """What the package's documentation shows, word for word."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    interpreter = Interpreter(str(model))
    signature = next(iter(interpreter.get_signature_list()))
    details = interpreter.get_signature_runner(signature).get_input_details()
    by_tensor = {detail["name"]: key for key, detail in details.items()}
    feeds = []
    for sample in read_samples(samples):
        feed = {}
        for bound in bindings:
            array = sample[bound["name"]]
            array = array.transpose(bound["permutation"]) if bound["permutation"] else array
            key = by_tensor[bound["tensor"]]
            feed[key] = np.ascontiguousarray(array.astype(bound["file_dtype"]))
        feeds.append(feed)
    quantization = quantizer.Quantizer(str(model), recipe.static_wi8_ai8())
    statistics = quantization.calibrate({signature: feeds})
    return bytes(quantization.quantize(statistics).quantized_model)


def by_hand(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The job of one recipe with the bare tools in one process: convert, quantize, score both models.

    ``model.onnx``, ``samples.npz`` (calibration), ``evaluation.npz`` (feeds of one sample each); no check of
    anything, no parity, no second run.
    """
    import onnx
    import onnx2tf
    import onnxruntime as ort
    import onnxsim
    from ai_edge_litert.interpreter import Interpreter

    marks = {"start": time.perf_counter()}
    model, _ = onnxsim.simplify(
        onnx.load(str(inputs / "model.onnx")), overwrite_input_shapes=options["shapes"]
    )
    onnx.save(model, str(outputs / "copy.onnx"))
    onnx2tf.convert(
        input_onnx_file_path=str(outputs / "copy.onnx"),
        output_folder_path=str(outputs / "tflite"),
        tflite_backend="flatbuffer_direct",
        not_use_onnxsim=True,
        non_verbose=True,
    )
    marks["converted"] = time.perf_counter()
    file = next((outputs / "tflite").glob("*float32.tflite"))
    quantized = static_int8(file, inputs / "samples.npz", _hand_bindings(file, options))
    marks["quantized"] = time.perf_counter()
    feeds = read_samples(inputs / "evaluation.npz")
    session = ort.InferenceSession((inputs / "model.onnx").read_bytes())
    for feed in feeds:
        session.run(None, feed)
    interpreter = Interpreter(model_content=quantized)
    interpreter.allocate_tensors()
    found = _hand_bindings(file, options)
    slots = {d["name"]: d for d in interpreter.get_input_details()}
    for feed in feeds:
        for bound in found:
            array = feed[bound["name"]]
            array = array.transpose(bound["permutation"]) if bound["permutation"] else array
            slot = slots.get(bound["tensor"]) or next(iter(slots.values()))
            interpreter.set_tensor(slot["index"], np.ascontiguousarray(array.astype(slot["dtype"])))
        interpreter.invoke()
    marks["scored"] = time.perf_counter()
    names = list(marks)
    return {
        "seconds": {b: marks[b] - marks[a] for a, b in itertools.pairwise(names)},
        "total_s": marks["scored"] - marks["start"],
    }


def _hand_bindings(file: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Which input is which, in the layout that the converter chose."""
    shapes = {d["name"]: tuple(d["shape"]) for d in _details(file)}
    found = []
    for (name, shape), (tensor, target) in zip(
        options["shapes"].items(), shapes.items(), strict=True
    ):
        moved = [0, *range(2, len(shape)), 1] if len(shape) >= 3 else list(range(len(shape)))
        permuted = tuple(shape) != target
        found.append(
            {
                "name": name,
                "tensor": tensor,
                "permutation": moved if permuted else [],
                "file_dtype": "float32",
            }
        )
    return found


def _details(file: Path) -> list[dict[str, Any]]:
    from ai_edge_litert.interpreter import Interpreter

    details: list[dict[str, Any]] = Interpreter(str(file)).get_input_details()
    return details


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """The module that reads files is there."""
    return {"modules": [LiteRtFile.__module__]}


OPERATIONS = {"probe": probe, "defaults": defaults, "by_hand": by_hand}
