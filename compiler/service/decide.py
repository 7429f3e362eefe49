"""The decision for a target: the held-out split is read once, for the candidates that were named before.

Rules:
- The named candidates are judged in their order, each at its share of the error rate; the first that
  passes every gate is chosen.
- What this host cannot run is never accepted, only `unproven`, and only when its stand-in passes.
- Every variant that was tried is reported, with by how much it failed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from compiler.errors import BuildError, EvaluationError, ToolchainMissingError
from compiler.evaluate import child, gates, metrics, split
from compiler.evaluate.child import Asked, Evaluation
from compiler.evaluate.gates import Gate
from compiler.evaluate.jobs import Figures, Result
from compiler.recipes.variant import Variant
from compiler.service import packing
from compiler.service.packing import Proof
from compiler.service.report import Candidate, Metric, Verdict
from compiler.service.screen import Screen, Screened
from compiler.service.search import Found
from compiler.targets.catalog import Target
from compiler.toolchains.steps import Built
from fleet.artifact.package import Package
from fleet.artifact.parity import Parity


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided for a ladder.

    Attributes:
        chosen: None when nothing passed.
        package: the chosen artifact, not yet attested.
    """

    candidates: list[Candidate]
    chosen: Candidate | None = None
    package: Package | None = None
    variant: Variant | None = None


@dataclass(frozen=True, kw_only=True)
class _Judged:
    candidate: Candidate
    package: Package | None


def decide(screen: Screen, target: Target, found: Found) -> Decision:
    """Judge what was named; describe everything that was tried."""
    described = {id(one): describe(screen, found, one) for one in found.tried}
    for one in found.named:
        judged = _judge(screen, target, found, one)
        described[id(one)] = judged.candidate
        if judged.package is None:
            continue
        candidate = _inspected(screen, one, judged.candidate)
        described[id(one)] = candidate
        return Decision(
            candidates=list(described.values()),
            chosen=candidate,
            package=judged.package,
            variant=one.variant,
        )
    return Decision(candidates=list(described.values()))


def _judge(screen: Screen, target: Target, found: Found, one: Screened) -> _Judged:
    """Read the held-out split for one named candidate."""
    candidate = describe(screen, found, one)
    if one.content is None or one.built is None:
        return _Judged(candidate=candidate, package=None)
    try:
        evaluation = _held_out(screen, one, len(found.named))
    except EvaluationError as error:
        ended = msgspec.structs.replace(candidate, verdict=Verdict.FAILED, reason=str(error))
        return _Judged(candidate=ended, package=None)
    rule, result = screen.prepared.folder.metric, evaluation.result
    judged = [
        *one.gates,
        gates.metric(rule, result),
        gates.memory(one.built, result, target),
        gates.speed(one.variant.recipe, found.speed(one)),
    ]
    verdict, reason, judged = _verdict(target, one.built, judged)
    candidate = msgspec.structs.replace(
        candidate,
        verdict=verdict,
        reason=reason,
        gates=judged,
        metric=metric_of(screen, result),
        evidence=result.evidence,
        parity_exact=_parity(result.exact) or candidate.parity_exact,
        parity_host=_parity(result.host) or candidate.parity_host,
        peak_memory_mib=result.peak_memory_mib if one.on_host else None,
    )
    if verdict not in {Verdict.ACCEPTED, Verdict.UNPROVEN}:
        return _Judged(candidate=candidate, package=None)
    return _Judged(
        candidate=candidate,
        package=packing.final(
            screen.subject,
            one.built,
            one.content,
            target=target,
            variant=one.variant,
            proof=Proof(
                status=verdict.value,
                evaluation=evaluation,
                latency=found.latencies.get(one.variant.name) if one.on_host else None,
                measured=one.on_host,
            ),
        ),
    )


def _held_out(screen: Screen, one: Screened, named: int) -> Evaluation:
    prepared = screen.prepared
    if one.content is None:
        raise EvaluationError(f"{one.variant.name}: expected a built candidate, found none")
    asked = Asked(
        model_folder=prepared.folder.path,
        calibration=prepared.recorded,
        reference=prepared.reference.folder,
        part=split.HELD_OUT,
        split=prepared.split,
        named=named,
        arithmetic=one.judged,
        both=one.variant.recipe.computes_in_integers,
        measure=True,
    )
    evaluation = child.evaluate(
        one.content, asked, work=screen.place(f"{one.variant.name}-held-out")
    )
    if evaluation.result.error:
        raise EvaluationError(evaluation.result.error)
    return evaluation


def _verdict(target: Target, built: Built, judged: list[Gate]) -> tuple[Verdict, str, list[Gate]]:
    failed = [gate for gate in judged if gate.passed is False]
    if failed:
        return Verdict.REJECTED, _said(failed), judged
    if built.stand_in is None:
        shown = [gate for gate in judged if gate.name in {"metric", "speed"}]
        return Verdict.ACCEPTED, _said(shown), judged
    name = f"{built.stand_in.member} in {built.stand_in.runtime}"
    elsewhere = {*gates.RUN_ON_HOST}
    if gates.planned_memory_mib(built) is None:
        elsewhere.add("memory")
    judged = [gates.on_stand_in(gate, name) if gate.name in elsewhere else gate for gate in judged]
    names = ", ".join(gate.name for gate in judged if gate.passed is None)
    reason = (
        f"for {', '.join(target.hardware_classes)}, which this host is not: {names} not run on it; "
        "what stands in for it passed"
    )
    return Verdict.UNPROVEN, reason, judged


def describe(screen: Screen, found: Found, one: Screened) -> Candidate:
    """A variant's part of the report, as far as screening knows it."""
    recipe = one.variant.recipe
    failed = [gate for gate in one.gates if gate.passed is False]
    verdict, reason = one.verdict, one.problem
    judged = list(one.gates)
    if not reason and failed:
        reason = _said(failed)
    elif not reason:
        speed = gates.speed(recipe, found.speed(one))
        judged.append(speed)
        named = any(one is other for other in found.named)
        verdict = Verdict.REJECTED if speed.passed is False else Verdict.PASSED
        reason = _said([speed]) if speed.passed is False else _not_chosen(named=named)
    candidate = Candidate(
        recipe=one.variant.name,
        runtime="",
        verdict=verdict,
        reason=reason,
        title=recipe.title,
        precision=recipe.precision,
        calibrator=one.variant.calibrator,
        judged=one.judged,
        gates=judged,
        kept=list(one.kept),
    )
    if one.built is None or one.evaluation is None:
        return candidate
    built, result = one.built, one.evaluation.result
    latency = found.latencies.get(one.variant.name)
    return msgspec.structs.replace(
        candidate,
        runtime=built.runtime,
        payload_sha256=hashlib.sha256(built.payload).hexdigest(),
        payload_size_bytes=len(built.payload),
        selection=metric_of(screen, result),
        parity=result.parity,
        parity_exact=_parity(result.exact),
        parity_host=_parity(result.host),
        latency_ms=latency,
        latency_source=(found.source or "estimate") if latency else "",
        fallen=built.fallen,
        operators=built.operators,
        tools=built.tools,
        finished=built.info,
        build_s=round(built.build_s, 2),
    )


def metric_of(screen: Screen, result: Result) -> Metric | None:
    """The metric as the report has it; None where no sample was scored."""
    if result.metric is None or result.reference is None:
        return None
    rule = screen.prepared.folder.metric
    return Metric(
        name=rule.name,
        value=result.metric,
        reference=result.reference,
        budget=rule.budget,
        higher_is_better=metrics.higher_is_better(rule),
        exact=result.exact.metric if result.exact else None,
        host=result.host.metric if result.host else None,
        samples=result.samples,
    )


def _inspected(screen: Screen, one: Screened, candidate: Candidate) -> Candidate:
    """With the error per layer and histograms, where the file is a quantized one."""
    if one.built is None or not one.variant.recipe.computes_in_integers:
        return candidate
    payload = (one.built.stand_in or one.built).payload
    try:
        layers, weights, activations = screen.prepared.workshop.inspect(one.variant, payload)
    except (BuildError, ToolchainMissingError):
        return candidate  # it is shown without; nothing is decided by it
    return msgspec.structs.replace(
        candidate, layers=layers, weights=weights, activations=activations
    )


def _parity(figures: Figures | None) -> Parity | None:
    return figures.parity if figures else None


def _said(judged: list[Gate]) -> str:
    return "; ".join(f"{gate.name}: {gate.detail}" for gate in judged)


def _not_chosen(*, named: bool) -> str:
    if named:
        return "passed the screen and was named; another named candidate was chosen before it"
    return "passed the screen; another candidate was preferred"
