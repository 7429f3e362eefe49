"""Evaluation data, as samples or, for a model with states, as sequences."""

from __future__ import annotations

from collections.abc import Sequence

from compiler.graph import data, sequences
from compiler.graph.data import Array, Arrays, Samples
from compiler.graph.folder import ModelFolder
from compiler.graph.sequences import Sequences
from fleet.artifact.manifest import InputSpec


def hold(
    described: ModelFolder, arrays: Arrays, inputs: Sequence[InputSpec]
) -> tuple[Samples | Sequences, Array | None]:
    """The folder's evaluation data and their labels, one for each row.

    Raises:
        DataError: they do not fit the model.
    """
    path = described.evaluation
    if not described.states:
        return data.samples(path, arrays, inputs), arrays.get("label")
    steady = [spec for spec in inputs if spec.name not in described.states]
    flat, _ = sequences.flattened(path, arrays, steady)
    return sequences.sequences(path, arrays, inputs, described.states), flat.get("label")
