"""Data of a model with states among its inputs: sequences of steps, not samples that stand alone.

``[states]`` in ``outrider.toml`` names for each state the output that becomes it at the next step.

Rules:
- The other inputs are arrays ``[sequences, steps, ...]``, or flat rows with an array ``sequence`` of whole
  numbers: rows of the same number are one sequence, in their order.
- A state begins as zeros, or as the data file's array of its name: one for each sequence, or one for all.
- Every sequence begins anew: nothing of one reaches another.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import DataError, FolderError
from compiler.graph import data
from compiler.graph.data import Array, Arrays, Samples
from compiler.graph.folder import ModelFolder
from fleet.artifact.manifest import InputSpec, TensorSpec

SEQUENCE: Final = "sequence"
_ALIKE: Final = 0.4
"""How similar two names are when one may be the other's next value (`difflib` ratio)."""

Indices = NDArray[np.intp]


def check(
    described: ModelFolder, inputs: Sequence[InputSpec], outputs: Sequence[TensorSpec]
) -> None:
    """Hold ``[states]`` against the model.

    Raises:
        FolderError: a name that the model does not have, or two tensors that cannot follow each other.
    """
    where = f"{described.toml}: states"
    given = {spec.name: spec for spec in inputs}
    made = {spec.name: spec for spec in outputs}
    for state, output in described.states.items():
        if state not in given:
            raise FolderError(
                f"{where}.{state}: expected one of the model's inputs {sorted(given)}, found {state!r}"
            )
        if output not in made:
            raise FolderError(
                f"{where}.{state}: expected one of the model's outputs {sorted(made)}, found {output!r}"
            )
        if given[state].preprocessing is not None:
            raise FolderError(
                f"{where}.{state}: expected a state without pre-processing, found [inputs.{state}]; remove it"
            )
        if not _follows(given[state], made[output]):
            raise FolderError(
                f"{where}.{state}: expected an output of dtype {given[state].dtype} and shape "
                f"{given[state].shape}, found {output!r} of {made[output].dtype} and {made[output].shape}"
            )
    if described.states and len(described.states) == len(given):
        raise FolderError(
            f"{where}: expected an input that is no state, because sequences are made of it, found none"
        )


def suggest(inputs: Sequence[InputSpec], outputs: Sequence[TensorSpec]) -> dict[str, str]:
    """Inputs that look like states, each with the output that may become it: alike in name, shape and dtype."""
    found: dict[str, str] = {}
    for spec in inputs:
        alike = {
            output.name: difflib.SequenceMatcher(None, spec.name, output.name).ratio()
            for output in outputs
            if _follows(spec, output) and output.name not in found.values()
        }
        best = max(alike, key=lambda name: alike[name], default="")
        if best and alike[best] >= _ALIKE and spec.shape and spec.shape[:1] != [None]:
            found[spec.name] = best
    return found


def check_declared(
    path: Path,
    arrays: Mapping[str, Array],
    inputs: Sequence[InputSpec],
    outputs: Sequence[TensorSpec],
) -> None:
    """Tell who forgot ``[states]`` how to write it, rather than to look for an array.

    Raises:
        DataError: data for an input that looks like a state are missing.
    """
    missing = {
        state: output
        for state, output in suggest(inputs, outputs).items()
        if state not in arrays and len(inputs) > 1
    }
    if missing:
        lines = ", ".join(f'{state} = "{output}"' for state, output in missing.items())
        raise DataError(
            f"{path}: expected an array named {next(iter(missing))!r} as the model's input, found "
            f"{sorted(arrays)}; if it is a state, write into outrider.toml: [states] {lines}"
        )


class Sequences:
    """Data in the form that `Samples` has, a sequence at a time.

    Attributes:
        count: number of sequences where all have the same length; else 1, which cannot be divided.
        rows: steps of one of them; of all together where they cannot be divided.
        batchable: never.
    """

    batchable = False

    def __init__(self, steps: Samples, lengths: Sequence[int], initial: Arrays) -> None:
        """Made by `sequences`; `steps` stand in order, `initial` has a row per sequence."""
        self._steps, self._lengths, self._initial = steps, list(lengths), initial
        equal = len(set(self._lengths)) == 1
        self.count = len(self._lengths) if equal else 1
        self.rows = self._lengths[0] if equal else steps.count
        self.steps = steps.count

    def feed(self, lo: int, hi: int) -> Arrays:
        """What a `compiler.evaluate.stepping.Stepping` runtime takes, for units lo to hi.

        Every input ``[steps, ...]``, each state ``[sequences, ...]``, and ``sequence`` ``[steps]``: which
        of the states a step belongs to.
        """
        every = len(self._lengths)
        first, last = (lo, hi) if self.count > 1 else (0, every)
        begin, end = sum(self._lengths[:first]), sum(self._lengths[:last])
        parts = [self._steps.feed(step, step + 1) for step in range(begin, end)]
        found = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        found |= {name: array[first:last] for name, array in self._initial.items()}
        lengths = self._lengths[first:last]
        return found | {SEQUENCE: np.repeat(np.arange(len(lengths)), lengths)}

    def pick(self, indices: Indices) -> Sequences:
        """Some of the sequences, in the order of `indices`."""
        begins = np.concatenate([[0], np.cumsum(self._lengths)])
        steps = np.concatenate([np.arange(begins[i], begins[i + 1]) for i in indices])
        return Sequences(
            self._steps.pick(steps),
            [self._lengths[i] for i in indices],
            {name: array[indices] for name, array in self._initial.items()},
        )

    def spans(self, _max_batch: int, count: int | None = None) -> list[tuple[int, int]]:
        """One sequence after the other."""
        end = self.count if count is None else min(count, self.count)
        return [(at, at + 1) for at in range(end)]


def sequences(
    path: Path, arrays: Mapping[str, Array], specs: Sequence[InputSpec], states: Mapping[str, str]
) -> Sequences:
    """Hold arrays against the model's inputs, step by step.

    Args:
        path: where they come from, for messages.
        arrays: by name; further names (labels) are left alone.
        specs: the model's inputs.
        states: as ``[states]`` has them.

    Raises:
        DataError: an array is missing, or its dtype, rank, shape or length does not fit.
    """
    flat, lengths = flattened(path, arrays, [s for s in specs if s.name not in states])
    steps = data.samples(path, flat, [spec for spec in specs if spec.name not in states])
    if steps.rows != 1:
        raise DataError(
            f"{path}: expected a model of batch 1 or of any batch, because a sequence has one row per step, "
            f"found a fixed batch of {steps.rows}; export it with batch 1"
        )
    initial = {
        spec.name: _initial(path, arrays, spec, len(lengths))
        for spec in specs
        if spec.name in states
    }
    return Sequences(steps, lengths, initial)


def flattened(
    path: Path, arrays: Mapping[str, Array], specs: Sequence[InputSpec]
) -> tuple[Arrays, list[int]]:
    """The arrays that go step by step (inputs and ``label``), one row per step, and each sequence's steps.

    Raises:
        DataError: lengths that do not fit each other, or a ``sequence`` that is none.
    """
    names = [spec.name for spec in specs if spec.name in arrays]
    names += ["label"] if "label" in arrays else []
    if SEQUENCE in arrays and SEQUENCE not in {spec.name for spec in specs}:
        order, lengths = _grouped(path, arrays[SEQUENCE])
        for name in names:
            if len(np.atleast_1d(arrays[name])) != len(order):
                raise DataError(
                    f"{path}: {name}: expected {len(order)} rows as {SEQUENCE!r} has, "
                    f"found shape {list(arrays[name].shape)}"
                )
        return {name: arrays[name][order] for name in names}, lengths
    first = names[0] if names else ""
    for name in names:
        shape = arrays[name].shape
        if len(shape) < 2 or 0 in shape[:2] or shape[:2] != arrays[first].shape[:2]:
            wanted = list(arrays[first].shape[:2]) if name != first else ["sequences", "steps"]
            raise DataError(
                f"{path}: {name}: expected shape [{', '.join(map(str, wanted))}, ...], found {list(shape)}; or "
                f"save flat rows, with an array {SEQUENCE!r} that says which sequence each belongs to"
            )
    if not names:
        return {}, [0]
    count, steps = arrays[first].shape[:2]
    flat = {name: arrays[name].reshape(count * steps, *arrays[name].shape[2:]) for name in names}
    return flat, [steps] * count


def _grouped(path: Path, ids: Array) -> tuple[Indices, list[int]]:
    """The order that brings rows of a sequence together, and each one's length."""
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or not len(ids):
        raise DataError(
            f"{path}: {SEQUENCE}: expected whole numbers, one per row, found dtype {ids.dtype} and shape "
            f"{list(ids.shape)}"
        )
    _, first, inverse, counts = np.unique(
        ids, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(first), np.intp)
    by_appearance = np.argsort(first)
    rank[by_appearance] = np.arange(len(first))
    return np.argsort(rank[inverse], kind="stable"), [int(n) for n in counts[by_appearance]]


def _initial(path: Path, arrays: Mapping[str, Array], spec: InputSpec, count: int) -> Array:
    """A state's first values, a row per sequence; an axis that varies has length 1."""
    shape = tuple(1 if n is None else n for n in spec.shape)
    array = arrays.get(spec.name)
    if array is None:
        return np.zeros((count, *shape), spec.dtype)
    if array.dtype.name != spec.dtype:
        raise DataError(
            f"{path}: {spec.name}: expected dtype {spec.dtype}, found {array.dtype.name}; convert it"
        )
    if array.shape == shape:
        return np.repeat(array[None], count, axis=0)
    if array.size == count * int(np.prod(shape)) and array.shape[:1] == (count,):
        return array.reshape(count, *shape)
    raise DataError(
        f"{path}: {spec.name}: expected the state's first values, of shape {list(shape)} or "
        f"{[count, *shape]} (one per sequence), found {list(array.shape)}; leave it out to begin with zeros"
    )


def _follows(state: TensorSpec, output: TensorSpec) -> bool:
    """Whether an output can be a state's next value."""
    return (
        state.dtype == output.dtype
        and len(state.shape) == len(output.shape)
        and all(
            a is None or b is None or a == b for a, b in zip(state.shape, output.shape, strict=True)
        )
    )
