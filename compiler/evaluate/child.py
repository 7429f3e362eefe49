"""Runs an evaluation in a child process of its own, under limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from compiler.errors import EvaluationError
from compiler.evaluate import jobs
from compiler.evaluate.jobs import Job, Result
from compiler.evaluate.split import Split
from compiler.graph import data
from compiler.graph.data import Arrays
from compiler.toolchains import own
from compiler.toolchains.process import Limits
from fleet.artifact import package
from fleet.artifact.package import Package

LIMITS: Final = Limits(wall_s=1800, cpu_s=3600, memory_mib=8192)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of an evaluation; see `jobs.Job`.

    Attributes:
        model_folder: whose data and metric.
        reference: `Evaluation.folder` of the fp32 model; None when this is the fp32 model.
        calibration: data instead of the folder's own: sequences with their states recorded.
    """

    model_folder: Path
    calibration: Path | None = None
    reference: Path | None = None
    part: str = ""
    split: Split | None = None
    named: int = 1
    arithmetic: str = jobs.HOST
    both: bool = False
    measure: bool = False


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured of one package.

    Attributes:
        folder: where the child left its arrays, for later evaluations to compare with.
    """

    result: Result
    arrays: Arrays
    folder: Path


def evaluate(content: Package, asked: Asked, *, work: Path, limits: Limits = LIMITS) -> Evaluation:
    """Score a package.

    Args:
        content: the package; its manifest's metric and tolerance are not looked at.
        asked: what is to be judged.
        work: an empty folder for the child's files; it is left to the caller.
        limits: of the child.

    Raises:
        EvaluationError: the child crashed, broke a limit, or answered junk. What it reports as an
            error of ours is in `Result.error` instead.
    """
    work.mkdir(parents=True, exist_ok=True)
    candidate = work / "candidate.outrider"
    candidate.write_bytes(package.write(content))
    job = Job(
        package=str(candidate.resolve()),
        folder=str(asked.model_folder.resolve()),
        calibration=str(asked.calibration.resolve()) if asked.calibration else "",
        output=str(work.resolve()),
        reference=str(asked.reference.resolve()) if asked.reference else "",
        part=asked.part,
        split=asked.split,
        named=asked.named,
        arithmetic=asked.arithmetic,
        both=asked.both,
        measure=asked.measure,
    )
    (work / "job.json").write_bytes(msgspec.json.encode(job))
    outcome = own.run(
        "compiler.evaluate.worker",
        "job.json",
        folder=work,
        limits=limits,
        with_runtimes=not asked.measure,
    )
    if outcome.problem:
        raise EvaluationError(f"the evaluation {outcome.problem}; its last lines:\n{outcome.tail}")
    try:
        result = msgspec.json.decode((work / jobs.RESULT).read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError) as error:
        raise EvaluationError(f"the evaluation ended without a usable result: {error}") from None
    arrays = {} if result.error else data.read(work / jobs.ARRAYS)
    return Evaluation(result=result, arrays=arrays, folder=work)
