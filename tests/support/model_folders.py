"""Small model folders for tests: a seeded convolutional classifier with data that it gets mostly right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CLASSES = 4
TOML = """\
name = "tiny"
version = "3"
task = "four textures"
licence = "Apache-2.0"

[metric]
name = "top1"
budget = 0.05

[data]
max_batch = 16

[inputs.image]
dtype = "uint8"
cast = "float32"
subtract = 128
divide = 64
layout = "NHWC->NCHW"
"""


def info(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def classifier(*, batch: int | str = "n", opset: int = 17) -> onnx.ModelProto:
    """image float32 (batch, 3, 8, 8) -> probs float32 (batch, 4)."""
    rng = np.random.default_rng(11)
    weights = {
        "w1": rng.normal(0, 0.4, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.3, (16, 8, 3, 3)),
        "b2": rng.normal(0, 0.1, 16),
        "w3": rng.normal(0, 1.2, (CLASSES, 16)),
        "b3": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [info("image", [batch, 3, 8, 8])],
        [info("probs", [batch, CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def images(count: int, seed: int) -> np.ndarray:
    """uint8 (count, 8, 8, 3): stripes of varying direction, colour and contrast, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:8, 0:8]
    angle, phase = rng.uniform(0, np.pi, (count, 1, 1)), rng.uniform(0, 6, (count, 1, 1))
    wave = np.sin(x * np.cos(angle) * 1.5 + y * np.sin(angle) * 1.5 + phase)
    colour = rng.uniform(-90, 90, (count, 1, 1, 3))
    noise = rng.normal(0, 8, (count, 8, 8, 3))
    return np.clip(128 + wave[..., None] * colour + noise, 0, 255).astype(np.uint8)


def answers(model: onnx.ModelProto, raw: np.ndarray) -> np.ndarray:
    """What the model answers, one image at a time."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    tensors = ((raw.astype(np.float32) - 128) / 64).transpose(0, 3, 1, 2)
    return np.concatenate([session.run(None, {"image": one[None]})[0] for one in tensors])


def write(
    folder: Path,
    *,
    toml: str = TOML,
    model: onnx.ModelProto | None = None,
    evaluation_n: int = 200,
    noise: float = 0.1,
) -> Path:
    """A complete folder; a share `noise` of the evaluation labels is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    model = model or classifier()
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    calibration, evaluation = images(64, 1), images(evaluation_n, 2)
    label = answers(model, evaluation).argmax(1)
    wrong = np.random.default_rng(3).random(len(label)) < noise
    label = np.where(wrong, (label + 1) % CLASSES, label)
    np.savez(folder / "calibration.npz", image=calibration)
    np.savez(folder / "evaluation.npz", image=evaluation, label=label)
    (folder / "outrider.toml").write_text(toml)
    return folder
