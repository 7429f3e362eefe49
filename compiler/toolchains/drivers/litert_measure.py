"""What quantization does inside a LiteRT model: ranges, each layer's part in the error, errors as they run together.

Laid beside the driver ``litert``. Rules:
- Activations are read sample by sample, tensor by tensor: memory does not grow with the samples.
- Each layer's part is measured on the kernels that devices run, and compared with the float file's answers.
- Errors are relative to the energy of what the float model says; 0 dB is as much error as signal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import ranges
from litert_bias import MeanMaps
from litert_file import Bindings, LiteRtFile, Runs, Samples, progress
from litert_quantize import Calibration, QuantizationError, Settings, quantize, said

MOST_DB: Final = 200.0
SHOWN_WEIGHTS: Final = 64
SHOWN_BINS: Final = 64
_COUNTED: Final = 1 << 20
_FEWEST_COUNTED: Final = 1 << 12
"""Values of a tensor that its histogram counts: of all samples together, and of one at least."""


def survey(
    file: LiteRtFile, samples: Samples, inputs: Bindings
) -> tuple[ranges.Survey, dict[str, list[Any]]]:
    """Histograms of all float activations, and what weights meet in the mean.

    How far they reach, and their means, are taken from every value.
    """
    runs = Runs(file.content, inputs, keep=True)
    done = iter(range(2 * len(samples)))
    most = max(_COUNTED // len(samples), _FEWEST_COUNTED)
    means = MeanMaps(file)

    def passes() -> Iterator[tuple[str, Any]]:
        for sample in samples:
            at = next(done)
            progress(at, 2 * len(samples), "ranges of activations")
            for name, values in runs.tensors(sample, file.floats):
                if at >= len(samples):
                    yield name, ranges.spread(values, most)
                    continue
                means.add(name, values)
                yield name, values

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
            print(f"{name}: {said(error)}")
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
    errors = {name: Error() for name in names}
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


# --- figures ----------------------------------------------------------------------------------------


@dataclass
class Error:
    """Sums over values of a tensor that two models give."""

    signal: float = 0.0
    answer: float = 0.0
    product: float = 0.0
    noise_energy: float = 0.0
    max_abs: float = 0.0

    def add(self, reference: Any, answer: Any) -> None:
        """Take in a pair of arrays with as many values each; what is not finite counts as zero there."""
        a, b = (np.ravel(one).astype(np.float64) for one in (reference, answer))
        a, b = (np.where(np.isfinite(one), one, 0.0) for one in (a, b))
        self.signal += float(a @ a)
        self.answer += float(b @ b)
        self.product += float(a @ b)
        self.noise_energy += float((a - b) @ (a - b))
        self.max_abs = max(self.max_abs, float(np.abs(a - b).max(initial=0.0)))

    @property
    def noise(self) -> float:
        """Energy of the error relative to the signal's; 1 at most where there is no signal."""
        if self.signal == 0.0:
            return float(self.noise_energy > 0.0)
        return self.noise_energy / self.signal

    @property
    def cosine(self) -> float:
        """Cosine similarity; 1 for two zeros."""
        if self.signal == 0.0 or self.answer == 0.0:
            return float(self.signal == self.answer)
        return self.product / float(np.sqrt(self.signal) * np.sqrt(self.answer))


def relative_noise(expected: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> float:
    """Energy of the error over the energy of the answers, the mean over the outputs.

    Args:
        expected, found: by sample, then by output, arrays of one shape each.
    """
    errors = [Error() for _ in expected[0]]
    for sample, other in zip(expected, found, strict=True):
        for error, a, b in zip(errors, sample, other, strict=True):
            error.add(a, b)
    return float(np.mean([error.noise for error in errors]))


def decibels(noise: float) -> float:
    """Signal to noise, no more than `MOST_DB` in size."""
    floor = 10.0 ** (-MOST_DB / 10)
    return float(np.clip(-10.0 * np.log10(max(noise, floor)), -MOST_DB, MOST_DB))


def histogram(array: Any) -> dict[str, Any]:
    """Counts of an array's values between its smallest and its largest."""
    finite = array[np.isfinite(array)]
    lo, hi = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    counts, _ = np.histogram(finite, bins=SHOWN_BINS, range=(lo, hi if hi > lo else lo + 1.0))
    return {"lo": lo, "hi": hi, "counts": [int(count) for count in counts]}
