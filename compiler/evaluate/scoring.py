"""Scoring one opened runtime: metric, parity, features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.runtimes.port import Runtime
from compiler.errors import EvaluationError, FolderError
from compiler.evaluate import custom, metrics
from compiler.graph.data import Arrays, Samples
from compiler.graph.folder import ModelFolder
from fleet.artifact.manifest import Manifest
from fleet.artifact.preprocess import is_raw, tensor_of
from fleet.telemetry import features

Array = NDArray[np.generic]
Floats = NDArray[np.float64]
_MAX_PARITY_BYTES = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Score:
    """The metric, and for a built-in one its statistics per sample."""

    value: float
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
    runtime: Runtime, folder: ModelFolder, manifest: Manifest, data: Mapping[str, Array]
) -> Score:
    """Score with the folder's own function."""
    specs = {spec.name: spec for spec in manifest.inputs}

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {
            name: tensor_of(specs[name], array)
            if name in specs and is_raw(specs[name], array.dtype.name)
            else array
            for name, array in feeds.items()
        }
        return runtime.run(tensors)

    return Score(value=custom.score(folder, run, data))


def score_built_in(
    runtime: Runtime, folder: ModelFolder, output: str, samples: Samples, labels: Array | None
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
        statistics=statistics,
        answers=np.concatenate(answers) if answers else None,
    )


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Outputs on the first calibration samples, and features on more of them."""

    outputs: Arrays
    features: dict[str, Floats]


def answer(
    runtime: Runtime,
    manifest: Manifest,
    samples: Samples,
    *,
    max_batch: int,
    parity_n: int,
    features_n: int,
) -> Answers:
    """Run calibration samples.

    Args:
        runtime: an open one.
        manifest: its artifact's.
        samples: calibration inputs.
        max_batch: largest batch.
        parity_n: keep the outputs of about this many samples, fewer where they are large.
        features_n: compute features of about this many.
    """
    names = features.names_for(manifest.inputs, manifest.outputs)
    outputs: dict[str, list[Array]] = {spec.name: [] for spec in manifest.outputs}
    found: dict[str, list[Floats]] = {name: [] for name in names}
    kept_bytes = 0
    for lo, hi in samples.spans(max_batch, max(parity_n, features_n)):
        feed = samples.feed(lo, hi)
        answers = runtime.run(feed)
        if lo < parity_n and kept_bytes < _MAX_PARITY_BYTES:
            for name, array in answers.items():
                outputs[name].append(np.atleast_1d(array))
                kept_bytes += array.nbytes
        for name, values in features.of(feed, answers, names=names).items():
            found[name].append(values)
    return Answers(
        outputs={name: np.concatenate(parts) for name, parts in outputs.items()},
        features={name: np.concatenate(parts) for name, parts in found.items()},
    )
