"""Small folders of a recurrent model: a cell whose state is an input, with sequences as data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from support.model_folders import info

WIDTH, HIDDEN, CLASSES = 6, 12, 3
TOML = """\
name = "cell"
task = "three drifts"

[metric]
name = "top1"
budget = 0.05

[data]
calibration = "calibration.npz"

[states]
h = "hN"
"""


def cell(*, batch: int | str = "n") -> onnx.ModelProto:
    """A gated cell: x float32 (batch, 6), h (1, batch, 12) -> y (batch, 3), hN (1, batch, 12)."""
    rng = np.random.default_rng(5)
    weights = {
        "wz": rng.normal(0, 0.7, (WIDTH, HIDDEN)), "uz": rng.normal(0, 0.4, (HIDDEN, HIDDEN)),
        "wc": rng.normal(0, 0.7, (WIDTH, HIDDEN)), "uc": rng.normal(0, 0.4, (HIDDEN, HIDDEN)),
        "bz": rng.normal(0, 0.1, HIDDEN) - 1.0, "bc": rng.normal(0, 0.1, HIDDEN),
        "v": rng.normal(0, 1.5, (HIDDEN, CLASSES)), "bv": np.zeros(CLASSES), "one": np.ones(1),
    }  # fmt: skip
    constants = [numpy_helper.from_array(a.astype(np.float32), k) for k, a in weights.items()]
    constants.append(numpy_helper.from_array(np.array([0], np.int64), "axis"))
    node = helper.make_node
    nodes = [
        node("Squeeze", ["h", "axis"], ["h0"]),
        node("Gemm", ["x", "wz", "bz"], ["xz"]), node("MatMul", ["h0", "uz"], ["hz"]),
        node("Add", ["xz", "hz"], ["z0"]), node("Sigmoid", ["z0"], ["z"]),
        node("Gemm", ["x", "wc", "bc"], ["xc"]), node("MatMul", ["h0", "uc"], ["hc"]),
        node("Add", ["xc", "hc"], ["c0"]), node("Tanh", ["c0"], ["c"]),
        node("Mul", ["z", "c"], ["new"]), node("Sub", ["one", "z"], ["keep"]),
        node("Mul", ["keep", "h0"], ["old"]), node("Add", ["new", "old"], ["h1"]),
        node("Unsqueeze", ["h1", "axis"], ["hN"]), node("Gemm", ["h1", "v", "bv"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "cell",
        [info("x", [batch, WIDTH]), info("h", [1, batch, HIDDEN])],
        [info("y", [batch, CLASSES]), info("hN", [1, batch, HIDDEN])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model


def inputs(count: int, steps: int, seed: int) -> np.ndarray:
    """float32 (count, steps, 6): slow walks, so that a state has something to remember."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(0, 0.5, (count, steps, WIDTH)).cumsum(1)
    return (walk + rng.normal(0, 0.3, walk.shape)).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray, h: np.ndarray | None = None):
    """Scores (steps, 3) and the states that each step was fed with (steps, 1, 1, 12), of one sequence."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    state = np.zeros((1, 1, HIDDEN), np.float32) if h is None else h
    scores, states = [], []
    for step in x:
        states.append(state)
        y, state = session.run(None, {"x": step[None], "h": state})
        scores.append(y[0])
    return np.stack(scores), np.stack(states)


def write(folder: Path, *, toml: str = TOML, flat: bool = False, batch: int | str = "n") -> Path:
    """A complete folder; evaluation labels are the fp32 model's own, with some noise."""
    folder.mkdir(parents=True, exist_ok=True)
    model = cell(batch=batch)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    calibration, evaluation = inputs(12, 20, 1), inputs(120, 10, 2)
    label = np.stack([run(model, x)[0].argmax(1) for x in evaluation])
    wrong = np.random.default_rng(3).random(label.shape) < 0.05
    label = np.where(wrong, (label + 1) % CLASSES, label)
    if flat:
        np.savez(
            folder / "calibration.npz",
            x=calibration.reshape(-1, WIDTH), sequence=np.repeat(np.arange(12), 20),
        )  # fmt: skip
        np.savez(
            folder / "evaluation.npz",
            x=evaluation.reshape(-1, WIDTH), label=label.reshape(-1),
            sequence=np.repeat(np.arange(120), 10),
        )  # fmt: skip
    else:
        np.savez(folder / "calibration.npz", x=calibration)
        np.savez(folder / "evaluation.npz", x=evaluation, label=label)
    (folder / "outrider.toml").write_text(toml)
    return folder
