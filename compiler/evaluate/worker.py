"""The evaluation's child process: opens one package, scores it, writes figures and arrays.

Rules:
- It uses the runtimes of `agent.runtimes`: a candidate is scored by the code that the device runs.
- A native crash costs this process, and so one candidate.
- An error of ours becomes a result that says so; any other exception ends the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.runtimes import registry
from agent.runtimes.port import Options, Runtime
from compiler.errors import EvaluationError
from compiler.evaluate import evaluation, evidence, jobs, metrics, scoring, split
from compiler.evaluate.evidence import Evidence
from compiler.evaluate.jobs import Figures, Job, Result
from compiler.evaluate.scoring import Score
from compiler.evaluate.stepping import Stepping
from compiler.graph import data, folder
from compiler.graph.data import Arrays, Samples
from compiler.graph.sequences import Sequences
from fleet.artifact import package, parity
from fleet.artifact.manifest import Manifest
from fleet.artifact.package import Package
from fleet.errors import OutriderError
from ota.verify import artifact

Array = NDArray[np.generic]
_PARITY = "parity:"


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
    """Everything that the job asks of one package."""
    content = package.read(Path(job.package).read_bytes())
    # Memory first, before any data are loaded that would blur it.
    measured = _measure(content) if job.measure else Result()
    bench = _Bench(job, content.manifest)
    verified = artifact.from_build(content)
    exact = job.arithmetic == jobs.EXACT
    runtime = registry.open_runtime(verified, Options(threads=1, exact=exact))
    found = bench.judge(runtime)
    arrays = bench.arrays(runtime, found)
    runtime.close()
    other = None
    if job.both:
        runtime = registry.open_runtime(verified, Options(threads=1, exact=not exact))
        other = bench.other(runtime)
        runtime.close()
    versions = {info.name: info.version for info in registry.available()}
    score = found.score
    judged = None
    if found.parity is not None:
        judged = Figures(parity=found.parity, metric=score.value if score else None)
    result = msgspec.structs.replace(
        measured,
        runtime_version=versions.get(content.manifest.runtime, ""),
        metric=score.value if score else None,
        reference=bench.reference_metric(score) if score else None,
        evidence=bench.evidence(score) if score else None,
        samples=len(score.statistics) if score and score.statistics is not None else 0,
        parity=found.parity,
        exact=judged if exact else other,
        host=other if exact else judged,
    )
    return result, arrays


class _Found:
    """What one runtime answered."""

    def __init__(self, answers: Arrays, parity_: parity.Parity | None, score: Score | None) -> None:
        self.answers, self.parity, self.score = answers, parity_, score


class _Bench:
    """The folder's data, and the fp32 model's answers where they are known."""

    def __init__(self, job: Job, manifest: Manifest) -> None:
        self._job = job
        self._manifest = manifest
        self._folder = folder.load(Path(job.folder))
        self._reference: Arrays = {}
        if job.reference:
            self._reference = data.read(Path(job.reference) / jobs.ARRAYS)
        calibration = Path(job.calibration) if job.calibration else self._folder.calibration
        self._calibration = data.samples(calibration, data.load(calibration), manifest.inputs)
        self._rows = split.rows(job.split, job.part) if job.split and job.part else None

    def judge(self, runtime: Runtime) -> _Found:
        """Answers and parity on calibration data, the metric on the job's part of evaluation data."""
        answers = self._answers(runtime, jobs.PARITY_SAMPLES)
        score = self._score(runtime) if self._job.part else None
        return _Found(answers, self._parity(answers) if self._reference else None, score)

    def other(self, runtime: Runtime) -> Figures:
        """Under the other arithmetic; the metric where the runtime's reference kernels are quick enough."""
        score = None
        if self._job.part and self._manifest.runtime == "onnxruntime":
            score = self._score(runtime)
        answers = self._answers(runtime, jobs.EXACT_SAMPLES)
        return Figures(parity=self._parity(answers), metric=score.value if score else None)

    def reference_metric(self, score: Score) -> float | None:
        """The fp32 model's metric on the same samples; its own for itself."""
        statistics = self._reference_statistics()
        if statistics is not None:
            return score.kind.reduce(statistics)
        if not self._reference:
            return score.value
        return float(self._reference["metric"])

    def evidence(self, score: Score) -> Evidence | None:
        """The loss against the fp32 model, and how sure it is."""
        reference = self.reference_metric(score)
        if not self._reference or reference is None:
            return None
        statistics, rule = self._reference_statistics(), self._folder.metric
        if statistics is None or score.statistics is None:
            better = metrics.higher_is_better(rule)
            return evidence.unpaired(
                evidence.loss_of(score.value, reference, higher_is_better=better)
            )
        return evidence.paired(
            rule.name, score.kind, score.statistics, statistics,
            budget=rule.budget, named=self._job.named,
        )  # fmt: skip

    def arrays(self, runtime: Runtime, found: _Found) -> Arrays:
        """What the parent, or a later evaluation, needs."""
        kept: Arrays = {}
        if self._job.measure:
            features = scoring.watched(
                runtime, self._manifest, self._calibration,
                max_batch=self._folder.max_batch, count=jobs.FEATURE_SAMPLES,
            )  # fmt: skip
            kept |= {f"feature:{name}": values for name, values in features.items()}
        if self._job.reference or found.score is None:
            return kept
        kept |= {_PARITY + name: array for name, array in found.answers.items()}
        kept["metric"] = np.array(found.score.value, np.float64)
        if found.score.statistics is not None:
            kept["statistics"] = found.score.statistics
        if found.score.answers is not None:
            kept["answers"] = found.score.answers
        return kept

    def _answers(self, runtime: Runtime, count: int) -> Arrays:
        return scoring.answer(
            runtime, self._manifest, self._calibration,
            max_batch=self._folder.max_batch, count=count,
        )  # fmt: skip

    def _parity(self, answers: Arrays) -> parity.Parity:
        expected = {
            name: self._reference[_PARITY + name][: len(array)] for name, array in answers.items()
        }
        return parity.compare(expected, answers)

    def _score(self, runtime: Runtime) -> Score:
        arrays = data.load(self._folder.evaluation)
        if self._folder.metric.custom:
            return scoring.score_custom(runtime, self._folder, self._manifest, arrays, self._rows)
        samples, label = evaluation.hold(self._folder, arrays, self._manifest.inputs)
        labels = self._labels(label, samples)
        if self._rows is not None:
            labels = None if labels is None else labels[_expanded(self._rows, samples.rows)]
            samples = samples.pick(self._rows)
        output = scoring.scored_output(self._folder, self._manifest)
        if self._folder.states:
            runtime = Stepping(runtime, self._folder.states)
        return scoring.score_built_in(runtime, self._folder, output, samples, labels)

    def _labels(self, label: Array | None, samples: Samples | Sequences) -> Array | None:
        if not metrics.get(self._folder.metric).needs_label:
            return self._reference.get("answers")
        return metrics.check_labels(
            str(self._folder.evaluation),
            label,
            self._folder.metric,
            samples.count * samples.rows,
        )

    def _reference_statistics(self) -> NDArray[np.float64] | None:
        found = self._reference.get("statistics")
        if found is None:
            return None
        statistics = found.astype(np.float64)
        if self._rows is None or self._job.split is None:
            return statistics
        samples = self._job.split.selection + self._job.split.held_out
        return statistics[_expanded(self._rows, len(statistics) // samples)]


def _expanded(rows: NDArray[np.intp], each: int) -> NDArray[np.intp]:
    """Rows of arrays in which every sample has `each` rows."""
    return (rows[:, None] * each + np.arange(each)).reshape(-1)


def _measure(content: Package) -> Result:
    """Golden vectors and memory."""
    before = _status_mib("VmRSS")
    runtime = registry.open_runtime(artifact.from_build(content), Options(threads=1))
    runtime.run(one_sample(content))
    memory = max(0.0, _status_mib("VmHWM") - before)
    golden = parity.compare(content.golden_outputs, runtime.run(content.golden_inputs))
    runtime.close()
    return Result(golden=golden, peak_memory_mib=memory)


def one_sample(content: Package) -> dict[str, Array]:
    """The first of the golden inputs, alone."""
    return {
        spec.name: content.golden_inputs[spec.name][:1]
        if spec.shape[:1] == [None]
        else content.golden_inputs[spec.name]
        for spec in content.manifest.inputs
    }


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
