"""Calibration and evaluation data, held against the model.

Rules:
- Reading is bounded; pickled objects are refused.
- Each array is named as the model's input that it feeds, and is either the raw data that applications
  send or the model's own tensor; its dtype tells which (`fleet.artifact.preprocess`).
- Samples stand along the first axis. For an input without a batch axis (a state) they stand along an
  axis of their own in front.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compiler.errors import DataError
from compiler.graph.npz import Array, Arrays, read
from compiler.graph.signature import raw_shape
from fleet.artifact.manifest import InputSpec
from fleet.artifact.preprocess import is_raw, tensor_of

__all__ = ["Array", "Arrays", "Samples", "load", "read", "samples"]


def load(path: Path) -> Arrays:
    """Read an npz file of plain arrays whose numbers are finite.

    Raises:
        DataError: unreadable, too large, pickled, or with values that are not finite.
    """
    arrays = read(path)
    if not arrays:
        raise DataError(f"{path}: expected arrays, found an empty file; save some")
    for name, array in arrays.items():
        _check_finite(path, name, array)
    return arrays


@dataclass(frozen=True)
class _Column:
    spec: InputSpec
    array: Array
    rows: int
    stacked: bool

    def take(self, lo: int, hi: int) -> Array:
        part = self.array[lo] if self.stacked else self.array[lo * self.rows : hi * self.rows]
        if is_raw(self.spec, part.dtype.name):
            return tensor_of(self.spec, part)
        return np.ascontiguousarray(part)

    def pick(self, indices: NDArray[np.intp]) -> _Column:
        each = 1 if self.stacked else self.rows
        rows = (indices[:, None] * each + np.arange(each)).reshape(-1)
        return _Column(self.spec, self.array[rows], self.rows, self.stacked)


class Samples:
    """Data for the model's inputs, sample by sample.

    Attributes:
        count: number of samples.
        rows: rows of the first axis that one sample takes: 1, or the model's fixed batch.
        batchable: whether several samples may be run at once.
    """

    def __init__(self, columns: Sequence[_Column], count: int) -> None:
        """Made by `samples`."""
        self._columns = columns
        self.count = count
        self.rows = max(column.rows for column in columns)
        self.batchable = all(
            not column.stacked and column.spec.shape[:1] == [None] for column in columns
        )

    def feed(self, lo: int, hi: int) -> Arrays:
        """The model's tensors for samples lo to hi (one at a time unless `batchable`)."""
        return {column.spec.name: column.take(lo, hi) for column in self._columns}

    def pick(self, indices: NDArray[np.intp]) -> Samples:
        """Some of the samples, in the order of `indices`."""
        return Samples([column.pick(indices) for column in self._columns], len(indices))

    def spans(self, max_batch: int, count: int | None = None) -> list[tuple[int, int]]:
        """Ranges that cover the first `count` samples in legal batches."""
        step = max_batch if self.batchable else 1
        end = self.count if count is None else min(count, self.count)
        return [(lo, min(lo + step, end)) for lo in range(0, end, step)]


def samples(path: Path, arrays: Mapping[str, Array], specs: Sequence[InputSpec]) -> Samples:
    """Hold arrays against the model's inputs.

    Args:
        path: where they come from, for messages.
        arrays: by name; further names (labels) are left alone.
        specs: the model's inputs.

    Raises:
        DataError: an array is missing, or its dtype, rank, shape or length does not fit.
    """
    columns = []
    count, first = -1, ""
    for spec in specs:
        column, n = _column(path, arrays, spec)
        if count not in {-1, n}:
            raise DataError(
                f"{path}: {spec.name}: expected {count} samples as in {first!r}, found {n}"
            )
        count, first = n, first or spec.name
        columns.append(column)
    return Samples(columns, count)


def _column(path: Path, arrays: Mapping[str, Array], spec: InputSpec) -> tuple[_Column, int]:
    array = arrays.get(spec.name)
    if array is None:
        raise DataError(
            f"{path}: expected an array named {spec.name!r} as the model's input, found {sorted(arrays)}"
        )
    raw = is_raw(spec, array.dtype.name)
    if not raw and array.dtype.name != spec.dtype:
        raw_dtype = spec.preprocessing.raw_dtype if spec.preprocessing else ""
        either = f"{raw_dtype} (raw) or {spec.dtype}" if raw_dtype else spec.dtype
        hint = "" if raw_dtype else f", or say inputs.{spec.name}.dtype in outrider.toml"
        raise DataError(
            f"{path}: {spec.name}: expected dtype {either}, found {array.dtype.name}; convert it{hint}"
        )
    shape = raw_shape(spec) if raw else list(spec.shape)
    stacked = array.ndim == len(shape) + 1 and _fits(shape, array.shape[1:])
    rows = shape[0] if shape and shape[0] is not None else 1
    fits = stacked or (array.ndim == len(shape) >= 1 and _fits(shape[1:], array.shape[1:]))
    if not fits or (not stacked and len(array) % rows):
        wanted = ", ".join("any" if n is None else str(n) for n in shape[1:])
        raise DataError(
            f"{path}: {spec.name}: expected shape [samples, {wanted}], found {list(array.shape)}"
        )
    count = len(array) if stacked else len(array) // rows
    if count < 1:
        raise DataError(f"{path}: {spec.name}: expected at least 1 sample, found none")
    return _Column(spec, array, rows, stacked), count


def _fits(expected: Sequence[int | None], found: Sequence[int]) -> bool:
    return all(e is None or e == f for e, f in zip(expected, found, strict=True))


def _check_finite(path: Path, name: str, array: Array) -> None:
    if array.dtype.kind not in "fc" or array.size == 0:
        return
    bad = ~np.isfinite(array)
    count = int(np.count_nonzero(bad))
    if count:
        at = [int(i) for i in np.unravel_index(int(bad.argmax()), array.shape)]
        share = 100 * count / math.prod(array.shape)
        raise DataError(
            f"{path}: {name}: expected finite numbers, found {count} NaN or infinite ({share:.2g} %), "
            f"the first at {at}; clean the data"
        )
