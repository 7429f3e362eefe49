"""A small, whole model folder for tests: a classifier of random images that it gets right."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import numpy as np
from support import artifacts

TOML = """\
name = "{name}"
task = "image classification, 4 classes"
licence = "Apache-2.0"
[metric]
name = "top1"
budget = 0.05
[data]
calibration = "calibration.npz"
evaluation = "evaluation.npz"
"""


def write(folder: Path, *, name: str = "digits", samples: int = 64) -> Path:
    """Write the folder; the same arguments give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outrider.toml").write_text(TOML.format(name=name))
    shutil.copy(artifacts.MODELS / "classify.onnx", folder / "model.onnx")
    calibration, evaluation = artifacts.images(samples), artifacts.images(samples, seed=9)
    np.savez(folder / "calibration.npz", image=calibration)
    label = artifacts.probabilities(evaluation).argmax(1)
    np.savez(folder / "evaluation.npz", image=evaluation, label=label)
    return folder


def packed(folder: Path, *, top: str = "") -> bytes:
    """The folder as a ZIP archive, below the folder `top` when given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{top}/{path.name}" if top else path.name)
    return buffer.getvalue()
