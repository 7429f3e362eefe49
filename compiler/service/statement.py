"""What the attestation of a chosen candidate states, out of what the compile found."""

from __future__ import annotations

from importlib.metadata import version as version_of

from compiler.evaluate.gates import Gate
from compiler.provenance import ingredients, predicate
from compiler.provenance.predicate import GateFigures, Provenance
from compiler.recipes.catalog import Recipe
from compiler.service import host
from compiler.service.prepare import Prepared
from compiler.service.report import Candidate
from compiler.targets.catalog import Target


def provenance(
    prepared: Prepared, target: Target, candidate: Candidate, recipe: Recipe
) -> Provenance:
    """Everything that made one artifact; the candidate is a variant of the recipe."""
    rule, split = prepared.folder.metric, prepared.split
    return Provenance(
        asked=predicate.External(
            model=prepared.folder.name,
            version=prepared.version,
            target=target.name,
            metric=rule.name,
            budget=rule.budget,
        ),
        recipe=predicate.Recipe(
            name=candidate.recipe,
            settings=_settings(recipe),
            calibrator=candidate.calibrator,
            kept=[layer.name for layer in candidate.kept],
            fallen=sorted(candidate.fallen),
        ),
        digests=prepared.digests,
        gates={gate.name: _figures(gate, candidate) for gate in candidate.gates},
        tools=ingredients.known(candidate.tools),
        selection=predicate.Selection(
            seed=split.seed, samples=split.selection, held_out=split.held_out
        ),
        host=host.describe(),
        versions={"outrider": version_of("outrider")},
    )


def _settings(recipe: Recipe) -> dict[str, object]:
    """A finishing recipe's own, over those of the recipe whose file it starts from."""
    return {**(recipe.base.settings if recipe.base else {}), **recipe.settings}


def _figures(gate: Gate, candidate: Candidate) -> GateFigures:
    found: dict[str, float | None] = {}
    if gate.name == "metric" and candidate.metric and candidate.evidence:
        found = {
            "value": candidate.metric.value,
            "reference": candidate.metric.reference,
            "budget": candidate.metric.budget,
            "loss": candidate.evidence.loss,
            "loss_upper": candidate.evidence.loss_upper,
            "samples": candidate.evidence.samples,
        }
    elif gate.name == "selection" and candidate.selection:
        found = {"value": candidate.selection.value, "reference": candidate.selection.reference}
    elif gate.name == "parity" and candidate.parity:
        found = {"cosine_min": candidate.parity.cosine_min, "max_abs": candidate.parity.max_abs}
    elif gate.name == "size":
        found = {"size_bytes": candidate.payload_size_bytes}
    elif gate.name == "speed" and candidate.latency_ms:
        latency = candidate.latency_ms
        found = {"latency_ms_p50": latency.p50, "latency_ms_p95": latency.p95}
    elif gate.name == "memory":
        found = {"peak_memory_mib": candidate.peak_memory_mib}
    return GateFigures(
        passed=gate.passed,
        detail=gate.detail,
        stand_in=gate.stand_in,
        figures={name: value for name, value in found.items() if value is not None},
    )
