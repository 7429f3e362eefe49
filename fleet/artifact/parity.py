"""How far two sets of answers lie apart: the same figures in the compiler's gate and in a device's self-test.

Per output both arrays are taken as one long vector (all samples together), so that one sample with a
tiny answer cannot decide alone.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.artifact.manifest import Tolerance
from fleet.errors import CallerError

Arrays = Mapping[str, NDArray[np.generic]]


class OutputParity(msgspec.Struct, frozen=True, kw_only=True):
    """One output's figures.

    Attributes:
        cosine: 1 when both point the same way.
        max_abs: largest absolute difference.
        snr_db: energy of what is expected over the energy of the difference, at most 200.
    """

    cosine: float
    max_abs: float
    snr_db: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over all outputs: the worst of each, and each output's own."""

    cosine_min: float
    max_abs: float
    outputs: dict[str, OutputParity]


def compare(expected: Arrays, found: Arrays) -> Parity:
    """Compare answers by name.

    Raises:
        CallerError: an output is missing or has another shape.
    """
    outputs = {name: _output(name, array, found.get(name)) for name, array in expected.items()}
    return Parity(
        cosine_min=min((o.cosine for o in outputs.values()), default=1.0),
        max_abs=max((o.max_abs for o in outputs.values()), default=0.0),
        outputs=outputs,
    )


def passes(parity: Parity, tolerance: Tolerance) -> bool:
    """Whether the answers lie within a manifest's tolerance."""
    return parity.cosine_min >= tolerance.cosine_min and parity.max_abs <= tolerance.max_abs


def _output(
    name: str, expected: NDArray[np.generic], found: NDArray[np.generic] | None
) -> OutputParity:
    if found is None or found.shape != expected.shape:
        shape = "none" if found is None else list(found.shape)
        raise CallerError(
            f"output {name!r}: expected shape {list(expected.shape)}, found {shape}; the answers are another model's"
        )
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    if not np.isfinite(b).all():
        return OutputParity(cosine=-1.0, max_abs=sys.float_info.max, snr_db=-200.0)
    difference = a - b
    energy, noise = float(a @ a), float(difference @ difference)
    norms = math.sqrt(energy) * math.sqrt(float(b @ b))
    cosine = float(a @ b) / norms if norms else float(energy == float(b @ b))
    snr = 10 * math.log10(energy / noise) if energy and noise else (200.0 if not noise else -200.0)
    return OutputParity(
        cosine=max(-1.0, min(1.0, cosine)),
        max_abs=float(np.abs(difference).max(initial=0.0)),
        snr_db=max(-200.0, min(200.0, snr)),
    )
