"""The ladder of one target: recipes from the fastest down, until one passes all gates.

Rules:
- A candidate costs nothing but itself: whatever its tools or its evaluation do is its verdict.
- What this host cannot run is never accepted, only `unproven`, and only when its stand-in passes.
- Every recipe that was tried is reported, with by how much it failed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from compiler.errors import BuildError, EvaluationError, ToolchainMissingError
from compiler.evaluate import child, evidence, gates, metrics
from compiler.evaluate.child import Evaluation
from compiler.evaluate.evidence import Evidence
from compiler.evaluate.gates import Gate
from compiler.recipes.catalog import Recipe
from compiler.service import host, packing
from compiler.service.packing import Proof, Subject
from compiler.service.prepare import Prepared
from compiler.service.report import Candidate, Latency, Metric, Verdict
from compiler.targets.catalog import Target
from compiler.toolchains import steps
from compiler.toolchains.steps import Built
from fleet.artifact.package import Package

CHOSEN: Final = (Verdict.ACCEPTED, Verdict.UNPROVEN)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A candidate with everything that packing it needs; without a package when it did not pass."""

    candidate: Candidate
    package: Package | None = None
    built: Built | None = None


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """A built file, what was judged, and the evaluation's outcome."""

    built: Built
    judged: Built
    content: Package
    evaluation: Evaluation


class Ladder:
    """Tries recipes; evaluations are kept, because targets share recipes."""

    def __init__(self, prepared: Prepared, work: Path) -> None:
        """For one prepared model; children exchange files below `work`."""
        self._prepared = prepared
        self._work = work
        self._subject = Subject(prepared.folder, prepared.version, prepared.source)
        self._scored: dict[tuple[str, str], _Scored] = {}

    def climb(self, target: Target, say: Say) -> list[Tried]:
        """Try the target's recipes in order; the last one passed, or none did."""
        tried: list[Tried] = []
        for recipe in target.candidates:
            say(recipe.name)
            tried.append(self._try(target, recipe))
            if tried[-1].candidate.verdict in CHOSEN:
                break
        return tried

    def _try(self, target: Target, recipe: Recipe) -> Tried:
        empty = Candidate(recipe=recipe.name, runtime="", verdict=Verdict.FAILED, reason="")
        if recipe.saturates and host.saturates():
            reason = (
                "this host's int8 kernels saturate (AVX2 without VNNI): it cannot be judged here"
            )
            return _ended(empty, Verdict.SKIPPED, reason)
        try:
            scored = self._score(target, recipe)
        except ToolchainMissingError as error:
            return _ended(empty, Verdict.SKIPPED, str(error))
        except (BuildError, EvaluationError) as error:
            return _ended(empty, Verdict.FAILED, str(error))
        return self._judge(target, recipe, scored)

    def _score(self, target: Target, recipe: Recipe) -> _Scored:
        key = (recipe.name, target.name if recipe.backend == "tensorrt-rtx" else "")
        if key not in self._scored:
            built = steps.build(recipe, self._prepared.source, target)
            judged = built.stand_in or built
            content = packing.provisional(
                self._subject,
                judged,
                golden_inputs=self._prepared.golden_inputs,
                golden_outputs=self._prepared.golden_outputs,
            )
            evaluation = child.evaluate(
                content,
                model_folder=self._prepared.folder.path,
                work=self._work / "-".join(filter(None, key)),
                reference=self._prepared.reference.folder,
                exact=judged.runtime == "onnxruntime" and recipe.mode in {"static", "dynamic"},
            )
            if evaluation.result.error:
                raise EvaluationError(evaluation.result.error)
            self._scored[key] = _Scored(
                built=built, judged=judged, content=content, evaluation=evaluation
            )
        return self._scored[key]

    def _judge(self, target: Target, recipe: Recipe, scored: _Scored) -> Tried:
        built, result = scored.built, scored.evaluation.result
        rule = self._prepared.folder.metric
        reference = self._prepared.reference.result.metric
        proof = self._evidence(scored.evaluation)
        on_host = [
            gates.parity(result, recipe),
            gates.metric(rule, proof, value=result.metric, reference=reference),
        ]
        model_bytes = len(self._prepared.model.data)
        judged = [gates.structure(built, recipe), gates.size(built, target, model_bytes), *on_host]
        failed = [gate for gate in judged if not gate.passed]
        verdict = Verdict.REJECTED if failed else Verdict.ACCEPTED
        reason = "; ".join(f"{gate.name}: {gate.detail}" for gate in failed or judged[-1:])
        if built.stand_in is not None:
            judged = _not_run(judged, built.stand_in)
            if not failed:
                verdict = Verdict.UNPROVEN
                reason = _unproven(target, judged)
        candidate = self._describe(recipe, scored, judged, proof, verdict=verdict, reason=reason)
        if failed:
            return Tried(candidate=candidate)
        return Tried(
            candidate=candidate,
            built=built,
            package=packing.final(
                self._subject,
                built,
                scored.content,
                target=target,
                recipe=recipe,
                proof=Proof(
                    status=verdict.value,
                    evidence=proof.strength,
                    evaluation=scored.evaluation,
                    reference=reference,
                    measured=built.stand_in is None,
                ),
            ),
        )

    def _describe(
        self,
        recipe: Recipe,
        scored: _Scored,
        judged: list[Gate],
        proof: Evidence,
        *,
        verdict: Verdict,
        reason: str,
    ) -> Candidate:
        built, result = scored.built, scored.evaluation.result
        rule = self._prepared.folder.metric
        reference = self._prepared.reference.result.metric
        candidate = Candidate(
            recipe=recipe.name,
            runtime=built.runtime,
            verdict=verdict,
            reason=reason,
            payload_sha256=hashlib.sha256(built.payload).hexdigest(),
            payload_size_bytes=len(built.payload),
            metric=Metric(
                name=rule.name,
                value=result.metric,
                reference=reference,
                budget=rule.budget,
                higher_is_better=metrics.higher_is_better(rule),
                exact=result.exact.metric if result.exact else None,
            ),
            parity=result.parity,
            parity_exact=result.exact.parity if result.exact else None,
            layers_kept_float=built.layers_kept_float,
            evidence=proof,
            gates=judged,
            operators=built.operators,
            tools=built.tools,
            build_s=round(built.build_s, 2),
        )
        if built.stand_in is None:
            return msgspec.structs.replace(
                candidate,
                latency_ms=Latency(p50=result.latency_ms_p50, p95=result.latency_ms_p95),
                peak_memory_mib=result.peak_memory_mib,
            )
        return candidate

    def _evidence(self, evaluation: Evaluation) -> Evidence:
        rule = self._prepared.folder.metric
        reference = self._prepared.reference
        ours, theirs = evaluation.arrays.get("statistics"), reference.arrays.get("statistics")
        if rule.custom or ours is None or theirs is None:
            loss = evidence.loss_of(
                evaluation.result.metric,
                reference.result.metric,
                higher_is_better=metrics.higher_is_better(rule),
            )
            return Evidence(
                loss=loss,
                loss_upper=None,
                strength="weak",
                samples=0,
                method="none: a custom metric gives one number, which cannot be resampled",
            )
        return evidence.paired(
            rule.name,
            metrics.get(rule),
            ours.astype("float64"),
            theirs.astype("float64"),
            budget=rule.budget,
        )


def _ended(candidate: Candidate, verdict: Verdict, reason: str) -> Tried:
    return Tried(candidate=msgspec.structs.replace(candidate, verdict=verdict, reason=reason))


def _not_run(judged: list[Gate], stand_in: Built) -> list[Gate]:
    name = f"{stand_in.member} in {stand_in.runtime}"
    found = [
        gates.on_stand_in(gate, name) if gate.name in gates.RUN_ON_HOST else gate for gate in judged
    ]
    return [
        *found,
        Gate(name="latency", passed=None, detail="not run on this host; nothing stands in for it"),
    ]


def _unproven(target: Target, judged: list[Gate]) -> str:
    names = ", ".join(gate.name for gate in judged if gate.passed is None)
    return (
        f"built for {', '.join(target.hardware_classes)}, which this host is not: {names} not run; "
        "what stands in for it passed"
    )
