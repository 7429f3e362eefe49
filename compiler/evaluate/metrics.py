"""Built-in task metrics, and the door for a user's own.

A built-in metric is a statistic per sample and a reduction over samples, so that its uncertainty can be
found by resampling the samples without running the model again.

| name | scored output | label | definition |
|---|---|---|---|
| top1, topk | class scores | class number | share of samples whose label has the largest score (is among the k largest) |
| auc | score, or two class scores | 0 or 1 | area under the ROC curve, ties count half (Mann and Whitney 1947) |
| f1 | class scores, or a score in 0..1 | class number | F1 of class 1 when there are two classes, else the mean over the classes that occur |
| mae, mse | values | values of the same shape | mean absolute, mean squared error |
| miou | class scores per pixel | class per pixel, 255 is ignored | mean over the classes that occur of intersection over union |
| agreement | class scores | none | share of answers that name the fp32 model's class |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.errors import DataError, MetricError
from compiler.graph.folder import MetricRule

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
IGNORED: Final = 255
_MAX_CLASSES: Final = 65_536


@dataclass(frozen=True)
class BuiltIn:
    """A metric.

    Attributes:
        statistic: (scores, labels, rule) of a batch to an array of shape (batch, ...).
        reduce: statistics of any number of samples to the metric.
    """

    statistic: Callable[[Array, Array, MetricRule], Floats]
    reduce: Callable[[Floats], float]
    higher_is_better: bool = True
    needs_label: bool = True


def get(rule: MetricRule) -> BuiltIn:
    """The built-in metric of that name."""
    return _BUILT_IN[rule.name]


def higher_is_better(rule: MetricRule) -> bool:
    """Whether more is better."""
    return rule.higher_is_better if rule.custom else get(rule).higher_is_better


def check_labels(where: str, labels: Array | None, rule: MetricRule, rows: int) -> Array:
    """Hold labels against a metric before anything is run.

    Raises:
        DataError: missing, of a wrong dtype or length, or negative.
    """
    if labels is None:
        raise DataError(
            f"{where}: expected an array 'label' for the metric {rule.name}, found none"
        )
    if rule.name in {"mae", "mse"}:
        if labels.dtype.kind not in "iuf":
            raise DataError(f"{where}: label: expected numbers, found dtype {labels.dtype}")
    elif labels.dtype.kind not in "iub":
        raise DataError(
            f"{where}: label: expected whole numbers (classes) for the metric {rule.name}, found dtype {labels.dtype}"
        )
    elif labels.size and int(labels.min()) < 0:
        raise DataError(f"{where}: label: expected classes from 0 up, found {int(labels.min())}")
    if labels.ndim < 1 or len(labels) != rows:
        found = list(labels.shape)
        raise DataError(
            f"{where}: label: expected {rows} labels, one per sample, found shape {found}"
        )
    return labels


def _in_range(labels: Array, classes: int, rule: MetricRule) -> Array:
    highest = int(labels.max(initial=0))
    if highest >= classes:
        raise MetricError(
            f"metric {rule.name}: label: expected classes 0 to {classes - 1}, because the model has "
            f"{classes} scores, found {highest}"
        )
    return labels


def _scores(output: Array, labels: Array, rule: MetricRule) -> Array:
    """Class scores as (batch, classes)."""
    flat = output.reshape(len(output), -1)
    if len(flat) != len(labels) or labels.size != len(labels):
        raise MetricError(
            f"metric {rule.name}: expected one row of scores per label, found output {list(output.shape)} "
            f"and labels {list(labels.shape)}; choose another metric or metric.output"
        )
    return flat


def _top1(output: Array, labels: Array, rule: MetricRule) -> Floats:
    scores = _scores(output, labels, rule)
    _in_range(labels, scores.shape[1], rule)
    return np.asarray(scores.argmax(1) == labels.reshape(-1), np.float64)


def _topk(output: Array, labels: Array, rule: MetricRule) -> Floats:
    scores = _scores(output, labels, rule)
    _in_range(labels, scores.shape[1], rule)
    values = scores.astype(np.float64)
    own = np.take_along_axis(values, labels.reshape(-1, 1).astype(np.intp), 1)
    return np.asarray((values > own).sum(1) < rule.k, np.float64)


def _auc(output: Array, labels: Array, rule: MetricRule) -> Floats:
    scores = _scores(output, labels, rule)
    if scores.shape[1] > 2:
        raise MetricError(
            f"metric auc: expected one score or two class scores, found {scores.shape[1]}"
        )
    _in_range(labels, 2, rule)
    return np.stack([labels.reshape(-1), scores[:, -1]], 1).astype(np.float64)


def _auc_of(statistics: Floats) -> float:
    label, score = statistics[:, 0] == 1, statistics[:, 1]
    positive = int(label.sum())
    negative = len(label) - positive
    if not positive or not negative:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]
    return float((ranks[label].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _f1(output: Array, labels: Array, rule: MetricRule) -> Floats:
    scores = _scores(output, labels, rule)
    single = scores.shape[1] == 1
    _in_range(labels, 2 if single else scores.shape[1], rule)
    answer = scores[:, 0].astype(np.float64) > 0.5 if single else scores.argmax(1)
    binary = np.full(len(scores), scores.shape[1] <= 2)
    return np.stack([labels.reshape(-1), answer, binary], 1).astype(np.float64)


def _f1_of(statistics: Floats) -> float:
    label, answer = statistics[:, 0], statistics[:, 1]
    classes = [1.0] if statistics[0, 2] else np.unique(label).tolist()
    values = []
    for one in classes:
        hits = float(((label == one) & (answer == one)).sum())
        total = float((label == one).sum() + (answer == one).sum())
        values.append(2 * hits / total if total else 0.0)
    return float(np.mean(values))


def _errors(output: Array, labels: Array, rule: MetricRule) -> Floats:
    expected = labels.reshape(len(labels), -1).astype(np.float64)
    found = output.reshape(len(output), -1).astype(np.float64)
    if expected.shape != found.shape:
        raise MetricError(
            f"metric {rule.name}: expected labels of the output's shape {list(output.shape)}, found {list(labels.shape)}"
        )
    return np.asarray(found - expected)


def _mae(output: Array, labels: Array, rule: MetricRule) -> Floats:
    return np.asarray(np.abs(_errors(output, labels, rule)).mean(1))


def _mse(output: Array, labels: Array, rule: MetricRule) -> Floats:
    return np.asarray(np.square(_errors(output, labels, rule)).mean(1))


def _mean(statistics: Floats) -> float:
    return float(statistics.mean())


def _pixel_classes(output: Array, labels: Array, rule: MetricRule) -> tuple[Array, int]:
    """Class per pixel and number of classes; the class axis is the one that the labels lack."""
    if output.ndim == labels.ndim + 1:
        for axis in (output.ndim - 1, 1):
            if output.shape[:axis] + output.shape[axis + 1 :] == labels.shape:
                return output.argmax(axis), output.shape[axis]
    raise MetricError(
        f"metric {rule.name}: expected class scores per pixel for labels {list(labels.shape)}, "
        f"found output {list(output.shape)}"
    )


def _miou(output: Array, labels: Array, rule: MetricRule) -> Floats:
    answer, classes = _pixel_classes(output, labels, rule)
    valid = labels != IGNORED
    _in_range(np.where(valid, labels, 0), classes, rule)
    if classes > _MAX_CLASSES:
        raise MetricError(f"metric miou: expected at most {_MAX_CLASSES} classes, found {classes}")
    rows = []
    for y, o, v in zip(labels, answer, valid, strict=True):
        truth, found = y[v].astype(np.intp), o[v]
        counts = [truth, found, truth[truth == found]]
        rows.append([np.bincount(c, minlength=classes) for c in counts])
    return np.asarray(rows, np.float64)


def _miou_of(statistics: Floats) -> float:
    truth, found, both = statistics.sum(0)
    occur = truth > 0
    union = (truth + found - both)[occur]
    return float((both[occur] / union).mean()) if occur.any() else float("nan")


def _agreement(output: Array, labels: Array, rule: MetricRule) -> Floats:
    answer = classes_of(output)
    if answer.shape != labels.shape:
        raise MetricError(
            f"metric {rule.name}: expected answers of shape {list(labels.shape)}, found {list(answer.shape)}"
        )
    return np.asarray((answer == labels).reshape(len(answer), -1).mean(1), np.float64)


def classes_of(output: Array) -> Array:
    """The class with the largest score: over the last axis, or the sign of single scores around 0.5."""
    if output.ndim < 2 or output.shape[-1] == 1:
        return np.asarray(output.astype(np.float64) > 0.5).reshape(len(output), -1)
    return np.asarray(output.argmax(-1))


_BUILT_IN: Final[dict[str, BuiltIn]] = {
    "top1": BuiltIn(_top1, _mean),
    "topk": BuiltIn(_topk, _mean),
    "auc": BuiltIn(_auc, _auc_of),
    "f1": BuiltIn(_f1, _f1_of),
    "mae": BuiltIn(_mae, _mean, higher_is_better=False),
    "mse": BuiltIn(_mse, _mean, higher_is_better=False),
    "miou": BuiltIn(_miou, _miou_of),
    "agreement": BuiltIn(_agreement, _mean, needs_label=False),
}
