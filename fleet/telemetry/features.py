"""Features: the scalars of each sample that are watched, the same on reference data and on the device.

A name is ``input:NAME:KIND`` or ``output:NAME:KIND``:

- ``mean``, ``std``: over all elements of the sample's tensor;
- ``roughness``: mean absolute difference of neighbouring pixels over the sample's standard deviation
  (unit-free, so that contrast does not move it; blur lowers it, noise raises it);
- ``confidence``: the largest class probability (Hendrycks and Gimpel 2017, arXiv:1610.02136);
- ``entropy``: Shannon entropy of the class probabilities, in nats.

Rules:
- A feature of a sample depends on that sample alone, never on what else is in its batch.
- Class scores that are not probabilities already (in [0, 1], summing to 1 up to the rounding of
  8-bit outputs) go through a softmax first.
- What cannot be computed is NaN, never an exception: a histogram counts it apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fleet.artifact.manifest import TensorSpec
from fleet.errors import CallerError

MAX_FEATURES: Final = 24
"""Models with many tensors are watched by their first ones, so that a window stays small."""

MAX_CLASSES: Final = 4096
"""A longer vector is taken for an embedding, not for class scores."""

Floats = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.generic]]


def names_for(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> list[str]:
    """The features that suit a model's signature, in a fixed order.

    Args:
        inputs: of the manifest; rank 4 counts as an image.
        outputs: of the manifest; a floating-point output of shape (batch, 2 to `MAX_CLASSES`) counts
            as class scores.
    """
    names = []
    for spec in inputs:
        kinds = ["mean"] if _is_scalar(spec) else ["mean", "std"]
        kinds += ["roughness"] if len(spec.shape) == 4 else []
        names += [f"input:{spec.name}:{kind}" for kind in kinds]
    for spec in outputs:
        kinds = ["mean"] if _is_scalar(spec) else ["mean", "std"]
        if _is_scores(spec):
            kinds = ["confidence", "entropy"]
        names += [f"output:{spec.name}:{kind}" for kind in kinds]
    return names[:MAX_FEATURES]


def of(inputs: Arrays, outputs: Arrays, *, names: Iterable[str]) -> dict[str, Floats]:
    """Features of a batch.

    Args:
        inputs: the model's tensors (after pre-processing), each of shape (batch, ...).
        outputs: the model's answers, each of shape (batch, ...).
        names: which features; see `names_for`.

    Returns:
        Per name an array of shape (batch,).

    Raises:
        CallerError: a name is not a feature of these tensors.
    """
    sides = {"input": inputs, "output": outputs}
    found = {}
    with np.errstate(all="ignore"):
        for name in names:
            side, _, rest = name.partition(":")
            tensor, _, kind = rest.rpartition(":")
            compute = _KINDS.get(kind)
            array = sides.get(side, {}).get(tensor)
            if compute is None or array is None:
                raise CallerError(
                    f"feature {name!r}: expected input:NAME:KIND or output:NAME:KIND with NAME one of "
                    f"{sorted({*inputs, *outputs})} and KIND one of {', '.join(_KINDS)}",
                )
            found[name] = compute(np.asarray(array))
    return found


def probabilities(scores: NDArray[np.generic]) -> Floats:
    """Class probabilities from probabilities or logits, row by row.

    Args:
        scores: shape (batch, classes).
    """
    x = _rows(scores)
    classes = x.shape[1]
    slack = 0.05 + classes / 512
    is_distribution = (
        (x.min(axis=1) >= -0.01)
        & (x.max(axis=1) <= 1.01)
        & (np.abs(x.sum(axis=1) - 1) <= min(slack, 0.5))
    )
    clipped = np.clip(x, 0, 1)
    shifted = np.exp(x - x.max(axis=1, keepdims=True))
    positive = np.where(is_distribution[:, None], clipped, shifted)
    return np.asarray(positive / positive.sum(axis=1, keepdims=True), np.float64)


def _mean(array: NDArray[np.generic]) -> Floats:
    return np.asarray(_rows(array).mean(axis=1), np.float64)


def _std(array: NDArray[np.generic]) -> Floats:
    return np.asarray(_rows(array).std(axis=1), np.float64)


def _roughness(array: NDArray[np.generic]) -> Floats:
    if array.ndim != 4:
        return np.full(array.shape[0] if array.ndim else 1, math.nan)
    # Images have fewer channels than columns; the layout itself is not part of a bare array.
    channels_last = array.shape[3] < array.shape[1]
    rows, columns = (1, 2) if channels_last else (2, 3)
    x = array.astype(np.float64)
    steps = [np.abs(np.diff(x, axis=axis)) for axis in (rows, columns) if x.shape[axis] > 1]
    if not steps:
        return np.zeros(array.shape[0])
    total = sum(step.sum(axis=(1, 2, 3)) for step in steps)
    count = sum(math.prod(step.shape[1:]) for step in steps)
    spread = _std(array)
    return np.asarray(
        np.divide(total / count, spread, out=np.zeros_like(spread), where=spread != 0), np.float64
    )


def _confidence(array: NDArray[np.generic]) -> Floats:
    return np.asarray(probabilities(array).max(axis=1), np.float64)


def _entropy(array: NDArray[np.generic]) -> Floats:
    p = probabilities(array)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    return np.asarray(-(p * logs).sum(axis=1), np.float64)


_KINDS: Final[dict[str, Callable[[NDArray[np.generic]], Floats]]] = {
    "mean": _mean,
    "std": _std,
    "roughness": _roughness,
    "confidence": _confidence,
    "entropy": _entropy,
}


def _rows(array: NDArray[np.generic]) -> Floats:
    """Shape (batch, elements); an empty sample has one element, NaN."""
    array = array.reshape(1) if array.ndim == 0 else array
    flat = array.reshape(array.shape[0], math.prod(array.shape[1:])).astype(np.float64)
    return flat if flat.shape[1] else np.full((flat.shape[0], 1), math.nan)


def _is_scalar(spec: TensorSpec) -> bool:
    return all(size == 1 for size in spec.shape[1:])


def _is_scores(spec: TensorSpec) -> bool:
    if len(spec.shape) != 2 or not spec.dtype.startswith("float"):
        return False
    classes = spec.shape[1]
    return classes is not None and 2 <= classes <= MAX_CLASSES
