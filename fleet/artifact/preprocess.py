"""Pre-processing: the same lines for calibration, evaluation and the device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fleet.artifact.manifest import InputSpec
from fleet.errors import CallerError

_PERMUTATIONS = {("NHWC", "NCHW"): (0, 3, 1, 2), ("NCHW", "NHWC"): (0, 2, 3, 1)}


def is_raw(spec: InputSpec, dtype: str) -> bool:
    """Whether an array of `dtype` is what applications send rather than the model's own tensor.

    When both have the same dtype, the array counts as the model's own tensor.
    """
    rule = spec.preprocessing
    return (
        rule is not None
        and bool(rule.raw_dtype)
        and rule.raw_dtype != spec.dtype
        and dtype == rule.raw_dtype
    )


def tensor_of(spec: InputSpec, raw: NDArray[np.generic]) -> NDArray[np.generic]:
    """Turn an application's raw batch into the model's tensor.

    Args:
        spec: the input.
        raw: shape (batch, ...), of dtype ``preprocessing.raw_dtype`` where that is given.

    Raises:
        CallerError: the dtype is not the one that applications should send.
    """
    rule = spec.preprocessing
    if rule is None:
        return raw.astype(spec.dtype, copy=False)
    if rule.raw_dtype and raw.dtype.name != rule.raw_dtype:
        raise CallerError(
            f"input {spec.name!r}: expected raw data of dtype {rule.raw_dtype}, found {raw.dtype.name}; convert it",
        )
    if rule.raw_layout and raw.ndim != len(rule.raw_layout):
        raise CallerError(
            f"input {spec.name!r}: expected raw data of layout {rule.raw_layout}, found shape {raw.shape}",
        )
    x = raw.astype(rule.cast or spec.dtype)
    if rule.subtract:
        x = x - _per_channel(spec.name, rule.subtract, x, rule.raw_layout)
    if rule.divide:
        x = x / _per_channel(spec.name, rule.divide, x, rule.raw_layout)
    permutation = _PERMUTATIONS.get((rule.raw_layout, rule.layout))
    if permutation is not None:
        x = x.transpose(permutation)
    return np.ascontiguousarray(x.astype(spec.dtype, copy=False))


def _per_channel(
    name: str, values: list[float], x: NDArray[np.generic], layout: str
) -> NDArray[np.generic]:
    # In the dtype of the data, so that a float32 stays one; fractions would be lost in an integer one.
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype(np.float64)
    array = np.asarray(values, dtype)
    if array.size == 1:
        return array.reshape(())
    axis = 1 if layout == "NCHW" else x.ndim - 1
    if x.ndim < 2 or x.shape[axis] != array.size:
        channels = x.shape[axis] if x.ndim > 1 else "no"
        raise CallerError(
            f"input {name!r}: expected as many channels as the pre-processing has values, found "
            f"{array.size} values for {channels} channels in shape {x.shape}",
        )
    return array.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
