"""Fine-tunes of a corpus model, as model folders: what versions of a model look like to a transfer.

Each is made from the weights of one ONNX model, seeded:

- ``head``: the last layer's weights alone are new (the backbone's bytes stay).
- ``full``: every weight and bias moves by noise of `STEP` of its tensor's own standard deviation, about what a short
  fine-tune with a small learning rate does; nothing stays byte for byte.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

STEP = 0.01
HEAD_STEP = 0.2
LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def write(folder: Path, out: Path, *, kind: str, step: float = STEP, seed: int = 7) -> Path:
    """Write the fine-tune of a model folder beside it."""
    shutil.copytree(folder, out, copy_function=shutil.copyfile)
    model = onnx.load(folder / "model.onnx")
    tune(model, kind=kind, step=step, seed=seed)
    onnx.save(model, out / "model.onnx")
    return out


def tune(model: onnx.ModelProto, *, kind: str, step: float = STEP, seed: int = 7) -> None:
    """Change a model's weights in place."""
    rng = np.random.default_rng(seed)
    chosen = head(model) if kind == "head" else {t.name for t in model.graph.initializer}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in chosen or values.dtype != np.float32:
            continue
        if not values.size or not np.isfinite(values).all():
            continue
        spread = float(values.std()) or float(np.abs(values).max())
        size = HEAD_STEP if kind == "head" else step
        if values.ndim < 2 and kind != "head":
            size /= 4  # biases and scales of normalisation move less than weights
        moved = values + rng.normal(0.0, size * spread, values.shape).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), tensor.name))


def head(model: onnx.ModelProto) -> set[str]:
    """Names of the last layer's weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in LAYERS and weights & set(n.input)]
    return weights & set(layers[-1].input)
