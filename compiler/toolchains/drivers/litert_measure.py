"""What quantization does inside a LiteRT model: ranges, each layer's part in the error, errors as they run together.

Laid beside the driver ``litert``. Rules:
- Activations are read sample by sample, tensor by tensor: memory is bounded, however many samples there are.
- Each layer's part is measured on the kernels that devices run, and held against the float file's answers.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import ranges
from deviations import Deviation, decibels, histogram, relative_noise
from harness import progress
from litert_bias import MeanMaps
from litert_file import Bindings, LiteRtFile, Runs, Samples
from litert_quantize import Calibration, QuantizationError, quantize, said
from litert_recipe import Settings

SHOWN_WEIGHTS: Final = 64
_COUNTED: Final = 1 << 20
_FEWEST_COUNTED: Final = 1 << 12
"""Values of a tensor that its histogram counts: of all samples together, and of one at least."""

_REMEMBERED_BYTES: Final = 256 << 20
"""What is counted may be kept from the first pass; models with more run a second time."""


def survey(
    file: LiteRtFile, samples: Samples, inputs: Bindings
) -> tuple[ranges.Survey, dict[str, list[Any]]]:
    """Histograms of all float activations, and what weights meet in the mean.

    How far they reach, and their means, are taken from every value.
    """
    runs = Runs(file.content, inputs, keep=True)
    most = max(_COUNTED // len(samples), _FEWEST_COUNTED)
    means = MeanMaps(file)
    remembered: list[tuple[str, Any]] = []
    size = 0

    def first() -> Iterator[tuple[str, Any]]:
        nonlocal size
        for at, sample in enumerate(samples):
            progress(at, len(samples), "ranges of activations")
            for name, values in runs.tensors(sample, file.floats):
                means.add(name, values)
                counted = ranges.spread(values, most)
                size += counted.nbytes
                if size <= _REMEMBERED_BYTES:
                    remembered.append((name, counted.copy()))
                yield name, values

    def second() -> Iterator[tuple[str, Any]]:
        if size <= _REMEMBERED_BYTES:
            yield from remembered
            return
        remembered.clear()
        for sample in samples:
            for name, values in runs.tensors(sample, file.floats):
                yield name, ranges.spread(values, most)

    waiting = [second, first]

    def passes() -> Iterator[tuple[str, Any]]:
        return waiting.pop()()

    found = ranges.survey(passes)
    return found, means.met()


def sensitivity(
    file: LiteRtFile,
    settings: Settings,
    found: Calibration,
    samples: Samples,
    inputs: Bindings,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """How much the outputs suffer from each of the layers, when it alone is quantized.

    A layer that cannot be quantized is left out.
    """
    reference = Runs(file.content, inputs)
    expected = [reference.outputs(sample) for sample in samples]
    layers = {layer["name"]: layer["op"] for layer in file.layers()}
    every = frozenset(one.name for one in file.operators)
    parts = []
    for index, name in enumerate(names):
        progress(index, len(names), f"sensitivity of {name}")
        if name not in layers:
            continue
        try:
            alone = quantize(file, replace(settings, kept=every - {name}, refuge="float"), found)
            if name not in alone.layers:
                continue
            runs = Runs(alone.content, inputs)
            answers = [runs.outputs(sample) for sample in samples]
        except (QuantizationError, RuntimeError, ValueError) as error:
            sys.stderr.write(f"{name}: {said(error)}\n")
            continue
        noise = relative_noise(expected, answers)
        parts.append({"name": name, "op": layers[name], "noise": noise, "snr_db": decibels(noise)})
    progress(len(names), len(names), "sensitivity")
    return parts


def together(
    file: LiteRtFile, quantized: LiteRtFile, samples: Samples, inputs: Bindings
) -> list[dict[str, Any]]:
    """How far each layer's output is from the float model's, as both models run.

    A tensor that the quantizer split in two (quantized, and back in float) is looked at under its own name.
    """
    there = {text for one in quantized.operators for text in one.outputs}
    layers = [layer for layer in file.layers() if _first(layer["name"]) in there]
    names = list(dict.fromkeys(_first(layer["name"]) for layer in layers))
    errors = {name: Deviation() for name in names}
    reference = Runs(file.content, inputs, keep=True)
    suspect = Runs(quantized.content, inputs, keep=True)
    for index, sample in enumerate(samples):
        progress(index, len(samples), "errors of layers")
        answers = dict(suspect.tensors(sample, names))
        for name, expected in reference.tensors(sample, names):
            if name in answers and answers[name].shape == expected.shape:
                errors[name].add(expected, answers[name])
    return [
        {
            **layer,
            "snr_db": decibels(errors[_first(layer["name"])].noise),
            "cosine": errors[_first(layer["name"])].cosine,
            "max_abs": errors[_first(layer["name"])].max_abs,
        }
        for layer in layers
    ]


def _first(name: str) -> str:
    """The first output of a layer, from its scope."""
    return name.split(";", 1)[0]


def weights(file: LiteRtFile) -> dict[str, dict[str, Any]]:
    """Histograms of the largest float weights."""
    found = [(name, file.values(name)) for name in file.constants]
    large = [(name, array) for name, array in found if array is not None and array.ndim > 1]
    large.sort(key=lambda one: (-one[1].size, one[0]))
    shown = {}
    for name, array in large[:SHOWN_WEIGHTS]:
        shown[name] = histogram(array.astype(np.float64)) | {"shape": list(array.shape)}
    return shown
