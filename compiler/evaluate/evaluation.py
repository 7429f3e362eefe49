"""What can be told of a folder's data before the model is run; samples or, with states, sequences.

Rule: whoever takes a folder in (a compile, a push) asks `check` first, so that both tell the same mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compiler.errors import DataError, FolderError
from compiler.evaluate import metrics
from compiler.graph import data, sequences
from compiler.graph.data import Array, Arrays, Samples
from compiler.graph.folder import ModelFolder
from compiler.graph.onnx_model import OnnxModel
from compiler.graph.sequences import Sequences
from fleet.artifact.manifest import InputSpec, TensorSpec

_BY_CLASS = ("top1", "topk")


@dataclass(frozen=True)
class Checked:
    """Data that fit the model.

    Attributes:
        calibration: samples, or sequences that the fp32 model has yet to be run over.
        evaluation_n: samples or sequences to score; 0 for a custom metric, which counts for itself.
    """

    calibration: Samples | Sequences
    evaluation_n: int


def check(described: ModelFolder, model: OnnxModel, inputs: Sequence[InputSpec]) -> Checked:
    """Hold a folder's description and data against its model.

    Raises:
        FolderError: ``[states]`` or ``metric.output`` name what the model does not have.
        DataError: an array is missing or does not fit; labels are missing or out of range.
    """
    sequences.check(described, inputs, model.outputs)
    output = _scored(described, model.outputs)
    path = described.calibration
    arrays = data.load(path)
    if not described.states:
        sequences.check_declared(path, arrays, inputs, model.outputs)
    calibration = _held(described, path, arrays, inputs)
    arrays = data.load(described.evaluation)
    if described.metric.custom:
        return Checked(calibration, 0)
    samples, label = hold(described, arrays, inputs)
    if metrics.get(described.metric).needs_label:
        where, rows = str(described.evaluation), samples.count * samples.rows
        found = metrics.check_labels(where, label, described.metric, rows)
        _check_range(where, found, described, output)
    return Checked(calibration, samples.count)


def hold(
    described: ModelFolder, arrays: Arrays, inputs: Sequence[InputSpec]
) -> tuple[Samples | Sequences, Array | None]:
    """The folder's evaluation data and their labels, one for each row.

    Raises:
        DataError: they do not fit the model.
    """
    path = described.evaluation
    samples = _held(described, path, arrays, inputs)
    if not described.states:
        return samples, arrays.get("label")
    steady = [spec for spec in inputs if spec.name not in described.states]
    flat, _ = sequences.flattened(path, arrays, steady)
    return samples, flat.get("label")


def _held(
    described: ModelFolder, path: Path, arrays: Arrays, inputs: Sequence[InputSpec]
) -> Samples | Sequences:
    if described.states:
        return sequences.sequences(path, arrays, inputs, described.states)
    return data.samples(path, arrays, inputs)


def _scored(described: ModelFolder, outputs: Sequence[TensorSpec]) -> TensorSpec:
    by_name = {spec.name: spec for spec in outputs}
    chosen = described.metric.output or outputs[0].name
    if chosen not in by_name:
        raise FolderError(
            f"{described.toml}: metric.output: expected one of the model's outputs {sorted(by_name)}, "
            f"found {chosen!r}"
        )
    return by_name[chosen]


def _check_range(where: str, labels: Array, described: ModelFolder, output: TensorSpec) -> None:
    """Classes beyond the model's, where the model says how many it has."""
    classes = output.shape[-1] if len(output.shape) == 2 else None
    if described.metric.name not in _BY_CLASS or classes is None or not labels.size:
        return
    rows = labels.astype(np.int64).reshape(len(labels), -1)
    highest = int(rows.max())
    if highest >= classes:
        at = int((rows >= classes).any(1).argmax())
        raise DataError(
            f"{where}: label: expected classes 0 to {classes - 1}, because output {output.name!r} has "
            f"{classes} scores, found {highest} among them (the first beyond is row {at})"
        )
