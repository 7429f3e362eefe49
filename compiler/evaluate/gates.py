"""The gates that a candidate must pass, each with what was found and what was allowed.

Rules:
- Every gate is judged and reported, also after one has failed.
- `metric` on the selection split chooses; `metric` on the held-out split decides.
- Quality is read under the target's real arithmetic: this host's where the host is the target, else the
  artifact's own; the other figure is reported beside it.
- Speed is judged by the target's measurements alone: this host's where it is one, or what devices reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from compiler.evaluate.evidence import Evidence
from compiler.evaluate.jobs import Result
from compiler.evaluate.race import Latency
from compiler.graph.folder import MetricRule
from compiler.recipes.catalog import Recipe
from compiler.targets.catalog import Target
from compiler.toolchains.steps import Built

RUN_ON_HOST: Final = ("parity", "selection", "metric")
FLOAT_TOLERANCE: Final = 1e-4
"""How far a float32 conversion may lie from ONNX Runtime, relative to the largest answer."""

_GROWTH: Final = (1.25, 256 << 10)
"""How much larger than the model a file may be: a factor, and bytes for the format's own tables."""

_ENGINE_GROWTH: Final = (8.0, 8 << 20)
"""Engines carry kernels."""

_AS_FAST: Final = 1.1
"""What only makes a file smaller may cost this much of the float file's speed: it computes the same."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One condition.

    Attributes:
        passed: None when it was not run on this host; then `stand_in` says what was judged instead.
    """

    name: str
    passed: bool | None
    detail: str
    stand_in: str = ""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Latencies that may be compared.

    Attributes:
        candidate, baseline: of the candidate and of the fastest float file; None where there is none.
        source: where they come from: ``this host``, or ``n devices``; empty when they are estimates only.
    """

    candidate: Latency | None
    baseline: Latency | None
    source: str


def structure(built: Built, recipe: Recipe, target: Target) -> Gate:
    """Only operators that the target's runtime has, and not the float model under another name."""
    name = "structure"
    custom = sorted(o for o in built.operators if o.upper().startswith("CUSTOM"))
    if custom and built.stand_in is None:
        return Gate(name=name, passed=False, detail=f"custom operators {custom}")
    allowed = target.operators.get(built.runtime)
    if allowed is not None:
        foreign = sorted(o for o in built.operators if o not in allowed)
        if foreign:
            detail = f"operators that the target's {built.runtime} does not have: {foreign}"
            return Gate(name=name, passed=False, detail=detail)
    if recipe.mode != "fp32" and built.quantized_weights == 0:
        return Gate(name=name, passed=False, detail="nothing was quantized")
    count = sum(built.operators.values())
    listed = "all of them the target's" if allowed is not None else "none custom"
    beside = target.beside_npu(built.info.get("cpu_operators", ()))
    if beside:
        listed += f", on the processor beside the NPU: {', '.join(beside)}"
    fallen = f"; {len(built.fallen)} stay in float, as the quantizer failed on them"
    return Gate(
        name=name,
        passed=True,
        detail=f"{count} operators, {listed}{fallen if built.fallen else ''}",
    )


def size(built: Built, target: Target, model_bytes: int) -> Gate:
    """Within what the target takes, and not absurdly larger than the model."""
    found = len(built.payload)
    factor, slack = _ENGINE_GROWTH if built.stand_in else _GROWTH
    allowed = min(target.max_size_mib << 20, int(model_bytes * factor) + slack)
    detail = f"{found / 1024:.0f} KiB of at most {allowed / 1024:.0f} KiB"
    return Gate(name="size", passed=found <= allowed, detail=detail)


def memory(built: Built, result: Result, target: Target) -> Gate:
    """What loading and one inference take, within what a model may take on the target.

    As measured here; or as a compiler for other hardware plans it, who knows better than a stand-in.
    """
    planned = planned_memory_mib(built)
    found = result.peak_memory_mib if planned is None else planned
    detail = (
        f"{found:.1f} MiB{'' if planned is None else ' planned'} of at most {target.memory_mib} MiB"
    )
    return Gate(name="memory", passed=found <= target.memory_mib, detail=detail)


def planned_memory_mib(built: Built) -> float | None:
    """SRAM and DRAM that the tool which finished the file planned for it; None where it says nothing."""
    estimates = built.info.get("estimates", {})
    planned = [estimates[key] for key in ("sram_kib", "dram_kib") if key in estimates]
    return sum(planned) / 1024 if planned else None


def parity(result: Result, recipe: Recipe, largest: float) -> Gate:
    """The answers on calibration samples point where the fp32 model's do; float files give the same answers.

    Args:
        result: of the candidate.
        recipe: how it was made.
        largest: of the fp32 model's answers, by absolute value.
    """
    if result.parity is None:
        raise ValueError("a candidate is scored with a reference")
    found, least = result.parity.cosine_min, recipe.parity_cosine_min
    snr = min((o.snr_db for o in result.parity.outputs.values()), default=200.0)
    detail = f"cosine {found:.5f}, at least {least:g}; SNR {snr:.1f} dB, max abs {result.parity.max_abs:.3g}"
    passed = found >= least
    if recipe.mode == "fp32":
        allowed = FLOAT_TOLERANCE * max(largest, 1e-6)
        passed = passed and result.parity.max_abs <= allowed
        detail += f", at most {allowed:.3g}"
    return Gate(name="parity", passed=passed, detail=detail)


def selection(rule: MetricRule, result: Result) -> Gate:
    """The loss on the selection split is within the budget."""
    if result.evidence is None or result.metric is None or result.reference is None:
        return Gate(
            name="selection",
            passed=True,
            detail="no selection split; chosen by the distance of the answers on calibration data",
        )
    return _metric("selection", rule, result.evidence, result.metric, result.reference)


def metric(rule: MetricRule, result: Result) -> Gate:
    """The loss on the held-out split is within the budget."""
    if result.evidence is None or result.metric is None or result.reference is None:
        raise ValueError("a named candidate is scored on the held-out split")
    return _metric("metric", rule, result.evidence, result.metric, result.reference)


def _metric(name: str, rule: MetricRule, proof: Evidence, value: float, reference: float) -> Gate:
    passed = proof.loss <= rule.budget + 1e-12
    detail = f"{rule.name} {value:.4f} against {reference:.4f} in fp32: "
    detail += f"loss {proof.loss:.4f} of at most {rule.budget:g}"
    if proof.loss_lower is not None and proof.loss_upper is not None:
        detail += (
            f", {proof.confidence:.3g} bounds {proof.loss_lower:.4f} to {proof.loss_upper:.4f}"
        )
    if proof.samples_needed is not None:
        detail += f"; {proof.samples_needed} samples would decide, {proof.samples} were there"
    return Gate(name=name, passed=passed, detail=detail)


def speed(recipe: Recipe, found: Speed) -> Gate:
    """Not slower than the fastest float file, which would be the better choice."""
    name = "speed"
    if found.candidate is None or found.baseline is None:
        return Gate(name=name, passed=None, detail="not measured; nothing stands in for it")
    ours, theirs = found.candidate.p50, found.baseline.p50
    detail = (
        f"p50 {ours:.3f} ms against {theirs:.3f} ms in float ({theirs / max(ours, 1e-9):.2f} times)"
    )
    if not found.source:
        return Gate(
            name=name, passed=None, detail=f"{detail}, an estimate", stand_in="this host's figures"
        )
    limit = theirs if recipe.computes_in_integers else theirs * _AS_FAST
    passed = recipe.mode == "fp32" or ours < limit
    return Gate(name=name, passed=passed, detail=f"{detail}, measured on {found.source}")


def on_stand_in(gate: Gate, stand_in: str) -> Gate:
    """A gate that could not be run on the file itself; its stand-in's outcome is in the words."""
    outcome = "passed" if gate.passed else "failed"
    detail = f"not run on this host; {stand_in} {outcome}: {gate.detail}"
    return Gate(name=gate.name, passed=None, detail=detail, stand_in=stand_in)
