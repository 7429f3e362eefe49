"""Do a proving device's figures prove an artifact? The limits are the artifact's own and its target's.

Rules:
- Every limit is judged and told, also after one was missed.
- A figure that is missing or is not a finite number misses its limit: what was not measured proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from fleet.artifact import parity
from fleet.artifact.manifest import Tolerance
from fleet.artifact.parity import Parity


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the figures must meet.

    Attributes:
        tolerance: of the golden vectors, from the artifact's manifest.
        latency_ms_p50_max: the target's latency gate for one sample; None where there is none.
        latency_source: where that limit comes from, in words.
        peak_memory_mib_max: what a model may take on the target; None where nobody says.
    """

    tolerance: Tolerance
    latency_ms_p50_max: float | None = None
    latency_source: str = ""
    peak_memory_mib_max: float | None = None


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """One limit, and what was found; `passed` is None where there was no limit to judge by."""

    name: str
    passed: bool | None
    detail: str


class Judgement(NamedTuple):
    """Whether every limit was met, and each of them."""

    proven: bool
    gates: list[Judged]

    @property
    def reason(self) -> str:
        """What was missed; what was met when nothing was missed."""
        missed = [gate for gate in self.gates if gate.passed is False]
        return "; ".join(f"{gate.name}: {gate.detail}" for gate in missed or self.gates)


def judge(figures: Mapping[str, float | None], limits: Limits) -> Judgement:
    """Judge a device's figures.

    Args:
        figures: ``golden_cosine_min``, ``golden_max_abs``, ``latency_ms_p50``, ``peak_memory_mib`` as the device
            signed them.
        limits: what they must meet.
    """
    gates = [
        _golden(figures, limits.tolerance),
        _latency(figures, limits),
        _memory(figures, limits.peak_memory_mib_max),
    ]
    return Judgement(all(gate.passed is not False for gate in gates), gates)


def _golden(figures: Mapping[str, float | None], tolerance: Tolerance) -> Judged:
    cosine, max_abs = _number(figures, "golden_cosine_min"), _number(figures, "golden_max_abs")
    if cosine is None or max_abs is None:
        return Judged(name="golden", passed=False, detail="expected figures, found none")
    found = Parity(cosine_min=cosine, max_abs=max_abs, outputs={})
    sane = -1.0 <= cosine <= 1.0 and max_abs >= 0.0
    return Judged(
        name="golden",
        passed=sane and parity.passes(found, tolerance),
        detail=(
            f"cosine {cosine:.6g}, at least {tolerance.cosine_min:.6g}; "
            f"differences up to {max_abs:.6g}, at most {tolerance.max_abs:.6g}"
        ),
    )


def _latency(figures: Mapping[str, float | None], limits: Limits) -> Judged:
    found, allowed = _number(figures, "latency_ms_p50"), limits.latency_ms_p50_max
    if found is None or found <= 0.0:
        return Judged(name="latency", passed=False, detail="expected a p50 above 0 ms, found none")
    if allowed is None:
        return Judged(name="latency", passed=None, detail=f"p50 {found:.4g} ms; there is no limit")
    detail = f"p50 {found:.4g} ms, at most {allowed:.4g} ms ({limits.latency_source})"
    return Judged(name="latency", passed=found <= allowed, detail=detail)


def _memory(figures: Mapping[str, float | None], allowed: float | None) -> Judged:
    found = _number(figures, "peak_memory_mib")
    if allowed is None:
        told = "not told" if found is None else f"{found:.4g} MiB"
        return Judged(name="memory", passed=None, detail=f"{told}; there is no limit")
    if found is None:
        return Judged(name="memory", passed=False, detail="expected a figure, found none")
    detail = f"{found:.4g} MiB, at most {allowed:.4g} MiB"
    return Judged(name="memory", passed=found <= allowed, detail=detail)


def _number(figures: Mapping[str, float | None], name: str) -> float | None:
    value = figures.get(name)
    return float(value) if value is not None and math.isfinite(value) else None
