"""The gates that a candidate must pass, each with what was found and what was allowed.

Rules:
- Every gate is judged and reported, also after one has failed.
- The metric is read from the target's real settings; the artifact's own quality (optimizations off) is
  reported beside it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from compiler.evaluate.evidence import Evidence
from compiler.evaluate.jobs import Result
from compiler.graph.folder import MetricRule
from compiler.recipes.catalog import Recipe
from compiler.targets.catalog import Target
from compiler.toolchains.steps import Built

RUN_ON_HOST: Final = ("parity", "metric", "latency")
_GROWTH: Final = (1.25, 256 << 10)
"""How much larger than the model a file may be: a factor, and bytes for the format's own tables."""

_ENGINE_GROWTH: Final = (8.0, 8 << 20)
"""Engines carry kernels."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One condition.

    Attributes:
        passed: None when it was not run on this host; then `stand_in` says what was judged instead.
    """

    name: str
    passed: bool | None
    detail: str
    stand_in: str = ""


def structure(built: Built, recipe: Recipe) -> Gate:
    """No operator that a runtime would have to be taught, and not the float model under another name."""
    custom = sorted(name for name in built.operators if name.upper().startswith("CUSTOM"))
    if custom:
        return Gate(name="structure", passed=False, detail=f"custom operators {custom}")
    if recipe.mode != "fp32" and built.quantized_weights == 0:
        return Gate(name="structure", passed=False, detail="nothing was quantized")
    count = sum(built.operators.values())
    return Gate(name="structure", passed=True, detail=f"{count} operators, none custom")


def size(built: Built, target: Target, model_bytes: int) -> Gate:
    """Within what the target takes, and not absurdly larger than the model."""
    found = len(built.payload)
    factor, slack = _ENGINE_GROWTH if built.stand_in else _GROWTH
    allowed = min(target.max_size_mib << 20, int(model_bytes * factor) + slack)
    detail = f"{found / 1024:.0f} KiB of at most {allowed / 1024:.0f} KiB"
    return Gate(name="size", passed=found <= allowed, detail=detail)


def parity(result: Result, recipe: Recipe) -> Gate:
    """The answers on calibration samples point where the fp32 model's do."""
    if result.parity is None:
        raise ValueError("a candidate is scored with a reference")
    found, least = result.parity.cosine_min, recipe.parity_cosine_min
    detail = f"cosine {found:.5f}, at least {least:g}"
    return Gate(name="parity", passed=found >= least, detail=detail)


def metric(rule: MetricRule, evidence: Evidence, *, value: float, reference: float) -> Gate:
    """The loss on held-out data is within the budget."""
    passed = evidence.loss <= rule.budget + 1e-12
    detail = f"{rule.name} {value:.4f} against {reference:.4f} in fp32: "
    detail += f"loss {evidence.loss:.4f} of at most {rule.budget:g}"
    return Gate(name="metric", passed=passed, detail=detail)


def on_stand_in(gate: Gate, stand_in: str) -> Gate:
    """A gate that could not be run on the file itself; its stand-in's outcome is in the words."""
    outcome = "passed" if gate.passed else "failed"
    detail = f"not run on this host; {stand_in} {outcome}: {gate.detail}"
    return Gate(name=gate.name, passed=None, detail=detail, stand_in=stand_in)
