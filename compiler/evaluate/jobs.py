"""What the evaluation's child process is told, and what it answers."""

from __future__ import annotations

from typing import Final

import msgspec

from compiler.evaluate.evidence import Evidence
from compiler.evaluate.split import Split
from fleet.artifact.parity import Parity

HOST: Final = "host"
EXACT: Final = "exact"
RESULT: Final = "result.json"
ARRAYS: Final = "arrays.npz"
PARITY_SAMPLES: Final = 64
EXACT_SAMPLES: Final = 8
"""Reference kernels are slow: the artifact's own quality is judged on this many calibration samples."""

FEATURE_SAMPLES: Final = 512


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Score one package on one model folder.

    Attributes:
        package: path of the candidate's file.
        folder: path of the model folder.
        reference: folder with the fp32 model's own result; empty when this is the fp32 model.
        calibration: path of calibration data instead of the folder's own; empty for those.
        output: folder to write `RESULT` and `ARRAYS` into.
        part: of the evaluation samples, see `split`; empty for none of them.
        split: how they are divided; None for the fp32 model, which sees all.
        named: how many candidates were named for the held-out split.
        arithmetic: what is judged: the host's kernels (`HOST`), or the artifact itself (`EXACT`: optimizations
            off, reference kernels), where the host's kernels are not the target's.
        both: look at the other one, too.
        measure: golden vectors, memory and watched features: what a package needs.
    """

    package: str
    folder: str
    output: str
    calibration: str = ""
    reference: str = ""
    part: str = ""
    split: Split | None = None
    named: int = 1
    arithmetic: str = HOST
    both: bool = False
    measure: bool = False


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Quality under one arithmetic.

    Attributes:
        metric: on the job's part; None where it was not asked for, or reference kernels are too slow for it.
    """

    parity: Parity
    metric: float | None = None


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        error: empty, or why the package could not be scored; then nothing else counts.
        code: the error's stable code.
        metric: on the job's part of the evaluation samples; None when it asked for none.
        reference: the fp32 model's metric on the same samples.
        evidence: of the loss between the two.
        samples: scored evaluation samples that can be told apart; 0 for a custom metric of one number.
        parity: against the fp32 model on calibration samples; None for the fp32 model itself.
        exact: the artifact's own quality, apart from what this host's kernels make of it.
        host: what this host's kernels make of it.
        golden: on the golden vectors that the package carries.
        peak_memory_mib: growth of the process while loading and inferring once.
    """

    error: str = ""
    code: str = ""
    runtime_version: str = ""
    metric: float | None = None
    reference: float | None = None
    evidence: Evidence | None = None
    samples: int = 0
    parity: Parity | None = None
    exact: Figures | None = None
    host: Figures | None = None
    golden: Parity | None = None
    peak_memory_mib: float = 0.0
