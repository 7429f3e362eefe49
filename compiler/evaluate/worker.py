"""The evaluation's child process: opens one package, scores it, writes figures and arrays.

Rules:
- It uses the runtimes of `agent.runtimes`: a candidate is scored by the code that the device runs.
- A native crash costs this process, and so one candidate.
- An error of ours becomes a result that says so; any other exception ends the process.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.runtimes import registry
from agent.runtimes.port import Options, Runtime
from compiler.errors import EvaluationError
from compiler.evaluate import jobs, metrics, scoring
from compiler.evaluate.jobs import Exact, Job, Result
from compiler.evaluate.scoring import Answers, Score
from compiler.graph import data, folder
from compiler.graph.data import Arrays, Samples
from compiler.graph.folder import ModelFolder
from fleet.artifact import package, parity
from fleet.artifact.manifest import Manifest
from fleet.artifact.package import Package
from fleet.errors import OutriderError
from ota.verify import artifact

_WARM_UP: Final = 3
_RUNS: Final = 100
_RUNS_AT_LEAST: Final = 5
_BUDGET_S: Final = 1.5

Array = NDArray[np.generic]


def main() -> int:
    """Score the job that the first argument names."""
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    try:
        result, arrays = evaluate(job)
    except OutriderError as error:
        result, arrays = Result(error=str(error), code=error.code), {}
    output = Path(job.output)
    (output / jobs.ARRAYS).write_bytes(package.npz_bytes(arrays))
    (output / jobs.RESULT).write_bytes(msgspec.json.encode(result))
    return 0


def evaluate(job: Job) -> tuple[Result, Arrays]:
    """Everything that is measured of one package."""
    content = package.read(Path(job.package).read_bytes())
    measured = _measure(content, job)
    described = folder.load(Path(job.folder))
    bench = _Bench(described, content.manifest, job.reference)
    verified = artifact.from_build(content)
    runtime = registry.open_runtime(verified, Options(threads=1))
    score, answers = bench.score(runtime)
    runtime.close()
    exact = None
    if job.exact:
        runtime = registry.open_runtime(verified, Options(threads=1, exact=True))
        exact_score, exact_answers = bench.score(runtime)
        runtime.close()
        exact = Exact(metric=exact_score.value, parity=bench.parity(exact_answers))
    result = msgspec.structs.replace(
        measured,
        metric=score.value,
        parity=bench.parity(answers) if job.reference else None,
        exact=exact,
        samples=0 if score.statistics is None else len(score.statistics),
    )
    return result, bench.arrays(score, answers, with_outputs=not job.reference)


class _Bench:
    """The folder's data, and the fp32 model's answers where they are known."""

    def __init__(self, described: ModelFolder, manifest: Manifest, reference: str) -> None:
        self._folder = described
        self._manifest = manifest
        self._reference: Arrays = {}
        if reference:
            self._reference = data.read(Path(reference) / jobs.ARRAYS)
        self._calibration = data.samples(
            described.calibration, data.load(described.calibration), manifest.inputs
        )
        self._evaluation = data.load(described.evaluation)

    def score(self, runtime: Runtime) -> tuple[Score, Answers]:
        """Metric on evaluation data, answers on calibration data."""
        answers = scoring.answer(
            runtime,
            self._manifest,
            self._calibration,
            max_batch=self._folder.max_batch,
            parity_n=jobs.PARITY_SAMPLES,
            features_n=jobs.FEATURE_SAMPLES,
        )
        if self._folder.metric.custom:
            score = scoring.score_custom(runtime, self._folder, self._manifest, self._evaluation)
        else:
            samples = data.samples(self._folder.evaluation, self._evaluation, self._manifest.inputs)
            score = scoring.score_built_in(
                runtime,
                self._folder,
                scoring.scored_output(self._folder, self._manifest),
                samples,
                self._labels(samples),
            )
        return score, answers

    def parity(self, answers: Answers) -> parity.Parity:
        """Against the fp32 model's answers."""
        prefix = "parity:"
        expected = {k[len(prefix) :]: v for k, v in self._reference.items() if k.startswith(prefix)}
        return parity.compare(expected, answers.outputs)

    def arrays(self, score: Score, answers: Answers, *, with_outputs: bool) -> Arrays:
        """What the parent, or a later evaluation, needs."""
        found: Arrays = {f"feature:{name}": values for name, values in answers.features.items()}
        if score.statistics is not None:
            found["statistics"] = score.statistics
        if score.answers is not None:
            found["answers"] = score.answers
        if with_outputs:
            found |= {f"parity:{name}": array for name, array in answers.outputs.items()}
        return found

    def _labels(self, samples: Samples) -> Array | None:
        if not metrics.get(self._folder.metric).needs_label:
            return self._reference.get("answers")
        return metrics.check_labels(
            str(self._folder.evaluation),
            self._evaluation.get("label"),
            self._folder.metric,
            samples.count * samples.rows,
        )


def _measure(content: Package, job: Job) -> Result:
    """Golden vectors, latency and memory, before any data are loaded that would blur the latter."""
    verified = artifact.from_build(content)
    before = _status_mib("VmRSS")
    runtime = registry.open_runtime(verified, Options(threads=1))
    one = _one_sample(content)
    runtime.run(one)
    memory = max(0.0, _status_mib("VmHWM") - before)
    latencies = _latencies(runtime, one) if job.latency else []
    golden = parity.compare(content.golden_outputs, runtime.run(content.golden_inputs))
    runtime.close()
    versions = {info.name: info.version for info in registry.available()}
    return Result(
        runtime_version=versions.get(content.manifest.runtime, ""),
        golden=golden,
        latency_ms_p50=float(np.quantile(latencies, 0.5)) if latencies else 0.0,
        latency_ms_p95=float(np.quantile(latencies, 0.95)) if latencies else 0.0,
        latency_runs=len(latencies),
        peak_memory_mib=memory,
    )


def _one_sample(content: Package) -> dict[str, Array]:
    return {
        spec.name: content.golden_inputs[spec.name][:1]
        if spec.shape[:1] == [None]
        else content.golden_inputs[spec.name]
        for spec in content.manifest.inputs
    }


def _latencies(runtime: Runtime, feed: Mapping[str, Array]) -> list[float]:
    for _ in range(_WARM_UP):
        runtime.run(feed)
    found: list[float] = []
    end = time.perf_counter() + _BUDGET_S
    while len(found) < _RUNS_AT_LEAST or (len(found) < _RUNS and time.perf_counter() < end):
        started = time.perf_counter()
        runtime.run(feed)
        found.append(1000 * (time.perf_counter() - started))
    return found


def _status_mib(key: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError as error:
        raise EvaluationError(f"expected /proc/self/status, found none: {error}") from None
    for line in lines:
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
