"""Latency and memory that devices of a hardware class have reported; they replace estimates of this host.

The file is JSON, ``outrider/figures/1``: `FigureFile`. It is what the cloud knows of a model's artifacts.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from compiler.errors import DataError
from compiler.evaluate.race import Latency
from compiler.targets.catalog import Target

FORMAT: Final = "outrider/figures/1"
_MAX_BYTES: Final = 16 << 20


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What devices of one class measured with one artifact.

    Attributes:
        recipe: the variant's decodable name.
        devices: how many reported.
    """

    hardware_class: str
    recipe: str
    latency_ms_p50: float
    latency_ms_p95: float
    model: str = ""
    runtime: str = ""
    payload_sha256: str = ""
    peak_memory_mib: float = 0.0
    devices: int = 1


class FigureFile(msgspec.Struct, frozen=True, kw_only=True):
    """The whole document."""

    format: str
    figures: list[Figure]


@dataclass(frozen=True)
class Reported:
    """Latencies by variant name, and whose they are."""

    latencies: dict[str, Latency]
    source: str


@dataclass(frozen=True)
class Figures:
    """What is known from devices."""

    figures: Sequence[Figure] = field(default_factory=tuple)

    def are_own(self, target: Target) -> bool:
        """Whether this host's own measurements are the target's."""
        return target.figures_are_own(platform.machine())

    def of(self, target: Target, names: Sequence[str]) -> Reported:
        """What devices of the target's classes reported of these variants; the most devices win."""
        found: dict[str, Figure] = {}
        for figure in self.figures:
            if figure.hardware_class not in target.hardware_classes or figure.recipe not in names:
                continue
            known = found.get(figure.recipe)
            if known is None or figure.devices > known.devices:
                found[figure.recipe] = figure
        latencies = {
            name: Latency(p50=one.latency_ms_p50, p95=one.latency_ms_p95)
            for name, one in found.items()
        }
        count = sum(one.devices for one in found.values())
        return Reported(latencies, f"{count} devices" if count != 1 else "1 device")


def load(path: Path) -> Figures:
    """Read a file of figures.

    Raises:
        DataError: unreadable, or not of this format.
    """
    try:
        with path.open("rb") as file:
            document = msgspec.json.decode(file.read(_MAX_BYTES + 1), type=FigureFile)
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise DataError(f"{path}: expected figures as JSON, found: {error}") from None
    if document.format != FORMAT:
        raise DataError(f"{path}: format: expected {FORMAT!r}, found {document.format!r}")
    return Figures(tuple(document.figures))
