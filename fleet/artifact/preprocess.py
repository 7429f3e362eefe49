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
    x = raw.astype(rule.cast or spec.dtype)
    if rule.subtract:
        x = x - _per_channel(rule.subtract, x, rule.raw_layout)
    if rule.divide:
        x = x / _per_channel(rule.divide, x, rule.raw_layout)
    permutation = _PERMUTATIONS.get((rule.raw_layout, rule.layout))
    if permutation is not None:
        x = x.transpose(permutation)
    return np.ascontiguousarray(x.astype(spec.dtype, copy=False))


def _per_channel(values: list[float], x: NDArray[np.generic], layout: str) -> NDArray[np.generic]:
    array = np.asarray(values, x.dtype)
    if array.size == 1:
        return array.reshape(())
    if layout == "NCHW":
        return array.reshape((1, -1) + (1,) * (x.ndim - 2))
    return array
