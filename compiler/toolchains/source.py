"""What every compile step starts from, and the forms that drivers take samples in."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from compiler.graph.data import Arrays, Samples
from compiler.graph.onnx_model import OnnxModel
from fleet.artifact.manifest import InputSpec, TensorSpec

CALIBRATION_SAMPLES: Final = 200
CONVERSION_SAMPLES: Final = 3
SENSITIVITY_SAMPLES: Final = 16
INSPECTION_SAMPLES: Final = 16
_MAX_BYTES: Final = 256 << 20


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checked model with its signature and calibration data."""

    model: OnnxModel
    inputs: list[InputSpec]
    outputs: list[TensorSpec]
    calibration: Samples


def fixed_shapes(inputs: Sequence[InputSpec], calibration: Samples) -> dict[str, list[int]]:
    """Shapes of one sample, for backends whose files take one shape only.

    What varies besides the batch (the batch axis of a state, a length) is fixed to what calibration has.
    """
    feed = calibration.feed(0, 1)
    return {spec.name: list(feed[spec.name].shape) for spec in inputs}


def profiles(source: Source, max_batch: int) -> dict[str, list[list[int]]]:
    """Minimum, optimum and maximum shape of each input that varies."""
    shapes = fixed_shapes(source.inputs, source.calibration)
    only_batch = all(None not in spec.shape[1:] for spec in source.inputs)
    batches = (1, max_batch, max_batch) if source.calibration.batchable and only_batch else (1,) * 3
    return {
        spec.name: [
            [batch, *shapes[spec.name][1:]] if spec.shape[0] is None else shapes[spec.name]
            for batch in batches
        ]
        for spec in source.inputs
        if None in spec.shape
    }


def sample_file(samples: Samples, most: int) -> bytes:
    """Evenly spread samples, one feed each, as an npz with arrays ``INDEX:NAME``."""
    count = min(most, samples.count)
    arrays: Arrays = {}
    size = 0
    for index, at in enumerate(np.linspace(0, samples.count - 1, count).round().astype(int)):
        feed = samples.feed(int(at), int(at) + 1)
        size += sum(array.nbytes for array in feed.values())
        if size > _MAX_BYTES and index:
            break
        arrays |= {f"{index}:{name}": array for name, array in feed.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
