"""What the evaluation's child process is told, and what it answers."""

from __future__ import annotations

from typing import Final

import msgspec

from fleet.artifact.parity import Parity

RESULT: Final = "result.json"
ARRAYS: Final = "arrays.npz"
PARITY_SAMPLES: Final = 64
FEATURE_SAMPLES: Final = 512


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Score one package on one model folder.

    Attributes:
        package: path of the candidate's file.
        folder: path of the model folder.
        reference: folder with the fp32 model's own result; empty when this is the fp32 model.
        output: folder to write `RESULT` and `ARRAYS` into.
        exact: score a second time with reference arithmetic (optimizations off).
        latency: measure it, too.
    """

    package: str
    folder: str
    output: str
    reference: str = ""
    exact: bool = False
    latency: bool = True


class Exact(msgspec.Struct, frozen=True, kw_only=True):
    """The artifact's own quality, apart from what this host's kernels make of it."""

    metric: float
    parity: Parity


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        error: empty, or why the package could not be scored; then nothing else counts.
        code: the error's stable code.
        golden: on the golden vectors that the package carries.
        parity: against the fp32 model on calibration samples; None for the fp32 model itself.
        samples: scored evaluation samples; 0 for a custom metric, which counts for itself.
        latency_ms_p50, latency_ms_p95: one sample, one thread, this host.
        peak_memory_mib: growth of the process while loading and inferring once.
    """

    error: str = ""
    code: str = ""
    runtime_version: str = ""
    metric: float = 0.0
    golden: Parity | None = None
    parity: Parity | None = None
    exact: Exact | None = None
    samples: int = 0
    latency_ms_p50: float = 0.0
    latency_ms_p95: float = 0.0
    latency_runs: int = 0
    peak_memory_mib: float = 0.0
