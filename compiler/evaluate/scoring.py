"""Scoring one opened runtime: metric, parity, features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.runtimes.port import Runtime
from compiler.errors import EvaluationError, FolderError
from compiler.evaluate import custom, metrics
from compiler.evaluate.metrics import BuiltIn
from compiler.graph.data import Arrays, Samples
from compiler.graph.folder import ModelFolder
from compiler.graph.sequences import Sequences
from fleet.artifact.manifest import Manifest
from fleet.artifact.preprocess import is_raw, tensor_of
from fleet.telemetry import features

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
_MAX_PARITY_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric with its statistics per sample.

    Attributes:
        kind: how statistics are reduced.
        statistics: first axis samples; None for a custom metric that gives one number.
        answers: the fp32 model's own, where they become the labels of others.
    """

    value: float
    kind: BuiltIn
    statistics: Floats | None = None
    answers: Array | None = None


def scored_output(folder: ModelFolder, manifest: Manifest) -> str:
    """Name of the output that the metric looks at.

    Raises:
        FolderError: ``metric.output`` names none of the model's.
    """
    names = [spec.name for spec in manifest.outputs]
    chosen = folder.metric.output or names[0]
    if chosen not in names:
        raise FolderError(
            f"{folder.toml}: metric.output: expected one of the model's outputs {names}, found {chosen!r}"
        )
    return chosen


def score_custom(
    runtime: Runtime,
    folder: ModelFolder,
    manifest: Manifest,
    data: Mapping[str, Array],
    rows: NDArray[np.intp] | None,
) -> Score:
    """Score with the folder's own function.

    Args:
        runtime: an open one.
        folder: whose function.
        manifest: the artifact's.
        data: arrays of the evaluation file, all of them: the function knows how they belong together.
        rows: of the statistics, those that are looked at; None for all.
    """
    specs = {spec.name: spec for spec in manifest.inputs}

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {
            name: tensor_of(specs[name], array)
            if name in specs and is_raw(specs[name], array.dtype.name)
            else array
            for name, array in feeds.items()
        }
        return runtime.run(tensors)

    value, statistics, kind = custom.score(folder, run, data)
    if statistics is None or rows is None:
        return Score(value=value, kind=kind, statistics=statistics)
    statistics = statistics[rows]
    return Score(value=kind.reduce(statistics), kind=kind, statistics=statistics)


def score_built_in(
    runtime: Runtime,
    folder: ModelFolder,
    output: str,
    samples: Samples | Sequences,
    labels: Array | None,
) -> Score:
    """Score with a built-in metric, batch by batch.

    Args:
        runtime: an open one.
        folder: whose metric.
        output: which output is scored.
        samples: evaluation inputs.
        labels: one per row; None for the fp32 model under `agreement`, whose answers become them.
    """
    metric = metrics.get(folder.metric)
    parts, answers = [], []
    for lo, hi in samples.spans(folder.max_batch):
        scores = np.atleast_1d(runtime.run(samples.feed(lo, hi))[output])
        if scores.dtype.kind == "f" and np.isnan(scores).any():
            raise EvaluationError(f"output {output!r}: expected numbers, found NaN")
        if labels is None:
            batch = metrics.classes_of(scores)
            answers.append(batch)
        else:
            batch = labels[lo * samples.rows : hi * samples.rows]
        parts.append(metric.statistic(scores, batch, folder.metric))
    statistics = np.concatenate(parts)
    return Score(
        value=metric.reduce(statistics),
        kind=metric,
        statistics=statistics,
        answers=np.concatenate(answers) if answers else None,
    )


def answer(
    runtime: Runtime, manifest: Manifest, samples: Samples, *, max_batch: int, count: int
) -> Arrays:
    """Outputs on the first calibration samples, fewer than `count` where they are large."""
    outputs: dict[str, list[Array]] = {spec.name: [] for spec in manifest.outputs}
    kept_bytes = 0
    for lo, hi in samples.spans(min(max_batch, count), count):
        if kept_bytes >= _MAX_PARITY_BYTES:
            break
        for name, array in runtime.run(samples.feed(lo, hi)).items():
            outputs[name].append(np.atleast_1d(array))
            kept_bytes += array.nbytes
    return {name: np.concatenate(parts) for name, parts in outputs.items()}


def watched(
    runtime: Runtime, manifest: Manifest, samples: Samples, *, max_batch: int, count: int
) -> dict[str, Floats]:
    """Features of calibration samples and of the answers to them."""
    names = features.names_for(manifest.inputs, manifest.outputs)
    found: dict[str, list[Floats]] = {name: [] for name in names}
    for lo, hi in samples.spans(max_batch, count):
        feed = samples.feed(lo, hi)
        for name, values in features.of(feed, runtime.run(feed), names=names).items():
            found[name].append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}
