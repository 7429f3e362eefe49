"""The golden self-test: does this artifact, on this device, answer as its author's fp32 model did?

Rules:
- The figures and the verdict are those of the compiler's gate: `fleet.artifact.parity`.
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
from fleet.artifact import parity
from fleet.artifact.manifest import InputSpec
from fleet.artifact.package import Package
from fleet.errors import OutriderError

Array = NDArray[np.generic]
_TIMED_RUNS: Final = 64
_TIMED_S: Final = 2.0


def run(runtime: Runtime, package: Package) -> SelfTest:
    """Run the golden vectors through a runtime, compare, and time single samples."""
    inputs = package.manifest.inputs
    missing = [spec.name for spec in inputs if spec.name not in package.golden_inputs]
    if missing or not package.golden_outputs:
        return _failed(
            f"expected golden vectors for the inputs {[spec.name for spec in inputs]} and for outputs, "
            f"found inputs {sorted(package.golden_inputs)} and outputs {sorted(package.golden_outputs)}"
        )
    golden = {spec.name: package.golden_inputs[spec.name] for spec in inputs}
    try:
        found = parity.compare(package.golden_outputs, runtime.run(golden))
        times_ms = _times_ms(runtime, inputs, golden)
    except OutriderError as error:
        return _failed(str(error))
    tolerance = package.manifest.tolerance
    passed = parity.passes(found, tolerance)
    return SelfTest(
        passed=passed,
        cosine_min=found.cosine_min,
        max_abs=found.max_abs,
        latency_ms_p50=float(np.percentile(times_ms, 50)),
        latency_ms_p95=float(np.percentile(times_ms, 95)),
        peak_memory_mib=peak_memory_mib(),
        detail=""
        if passed
        else (
            f"expected a cosine of at least {tolerance.cosine_min:.6g} and differences up to "
            f"{tolerance.max_abs:.6g} on the golden vectors, found {found.cosine_min:.6g} and "
            f"{found.max_abs:.6g}; this runtime does not compute what the model's author meant"
        ),
    )


def peak_memory_mib() -> float:
    """The most memory that this process has had resident; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0.0
    peaks = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] / 1024 if peaks else 0.0


def _times_ms(runtime: Runtime, specs: list[InputSpec], golden: Mapping[str, Array]) -> list[float]:
    """Times of single samples; the golden run before them was the warm-up."""
    one = {
        spec.name: golden[spec.name][:1] if spec.shape[:1] == [None] else golden[spec.name]
        for spec in specs
    }
    runtime.run(one)
    times_ms: list[float] = []
    while len(times_ms) < _TIMED_RUNS and sum(times_ms) < _TIMED_S * 1000:
        started = time.perf_counter()
        runtime.run(one)
        times_ms.append((time.perf_counter() - started) * 1000)
    return times_ms


def _failed(detail: str) -> SelfTest:
    return SelfTest(
        passed=False,
        cosine_min=-1.0,
        max_abs=sys.float_info.max,
        latency_ms_p50=0.0,
        peak_memory_mib=peak_memory_mib(),
        detail=detail,
    )
