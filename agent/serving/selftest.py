"""The golden self-test: does this artifact, on this device, answer as its author's fp32 model did?

The figures, over all outputs:

- ``cosine_min``: the smallest cosine between an output's answers and the golden ones;
- ``max_abs``: the largest absolute difference.

Rules:
- An answer that is not finite where the golden one is fails, whatever the tolerance says.
- An artifact without golden vectors fails: nothing would be known about it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.runtimes.port import Runtime
from agent.serving.port import SelfTest
from fleet.artifact.manifest import InputSpec, Tolerance
from fleet.artifact.package import Package
from fleet.errors import OutriderError

Array = NDArray[np.generic]
WORST: Final = sys.float_info.max
_TIMED_RUNS = 16
_TIMED_S = 2.0


def run(runtime: Runtime, package: Package) -> SelfTest:
    """Run the golden vectors through a runtime, compare, and time single samples."""
    manifest = package.manifest
    feeds = {spec.name: package.golden_inputs.get(spec.name) for spec in manifest.inputs}
    missing = [name for name, array in feeds.items() if array is None]
    if missing or not package.golden_outputs:
        return _failed(f"expected golden vectors for {sorted(feeds)} and outputs, found none")
    golden = {name: array for name, array in feeds.items() if array is not None}
    try:
        answers = runtime.run(golden)
        latency_ms_p50 = _latency(runtime, manifest.inputs, golden)
    except OutriderError as error:
        return _failed(str(error))
    return _judge(answers, package.golden_outputs, manifest.tolerance, latency_ms_p50)


def _judge(
    answers: Mapping[str, Array],
    golden: Mapping[str, Array],
    tolerance: Tolerance,
    latency_ms_p50: float,
) -> SelfTest:
    cosine_min, max_abs, told = 1.0, 0.0, []
    for name, expected in golden.items():
        found = answers.get(name)
        if found is None or found.shape != expected.shape:
            shape = None if found is None else list(found.shape)
            return _failed(f"output {name!r}: expected shape {list(expected.shape)}, found {shape}")
        cosine, distance = compare(found, expected)
        if cosine < tolerance.cosine_min or distance > tolerance.max_abs:
            told.append(
                f"output {name!r}: expected cosine of at least {tolerance.cosine_min:.6g} and differences "
                f"up to {tolerance.max_abs:.6g}, found {cosine:.6g} and {distance:.6g}"
            )
        cosine_min, max_abs = min(cosine_min, cosine), max(max_abs, distance)
    return SelfTest(
        passed=not told,
        cosine_min=cosine_min,
        max_abs=max_abs,
        latency_ms_p50=latency_ms_p50,
        peak_memory_mib=peak_memory_mib(),
        detail="; ".join(told),
    )


def compare(found: Array, expected: Array) -> tuple[float, float]:
    """Cosine and largest absolute difference of two arrays of one shape.

    Two arrays of zeros have cosine 1. What is not finite on both sides in the same way is left out;
    what is so on one side only makes the cosine -1 and the difference `WORST` (finite: JSON has no infinity).
    """
    left, right = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        same = (left == right) | (np.isnan(left) & np.isnan(right))
    finite = np.isfinite(left) & np.isfinite(right)
    if not (finite | same).all():
        return -1.0, WORST
    left, right = left[finite], right[finite]
    if not left.size:
        return 1.0, 0.0
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    distance = min(WORST, float(np.abs(left - right).max()))
    if norms == 0.0:
        return (1.0 if distance == 0.0 else 0.0), distance
    return min(1.0, float(left @ right) / norms), distance


def peak_memory_mib() -> float:
    """The most memory that this process has had resident; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] / 1024 if peaks else 0.0


def _latency(runtime: Runtime, specs: list[InputSpec], golden: Mapping[str, Array]) -> float:
    """Median time of one sample, in ms; the runs before it were the warm-up."""
    first = {
        spec.name: golden[spec.name][:1]
        if spec.shape and spec.shape[0] is None
        else golden[spec.name]
        for spec in specs
    }
    runtime.run(first)
    times: list[float] = []
    while len(times) < _TIMED_RUNS and sum(times) < _TIMED_S:
        started = time.perf_counter()
        runtime.run(first)
        times.append(time.perf_counter() - started)
    return float(np.median(times)) * 1000


def _failed(detail: str) -> SelfTest:
    return SelfTest(
        passed=False,
        cosine_min=-1.0,
        max_abs=WORST,
        latency_ms_p50=0.0,
        peak_memory_mib=peak_memory_mib(),
        detail=detail,
    )
