"""From a built file to an artifact: manifest, golden vectors, reference features, attestation.

Rules:
- The manifest speaks the model's terms; the bindings undo what a converter permuted or renamed.
- The tolerance of the device's self-test is what was measured on the golden vectors, with room for
  another processor's rounding, never a guess.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from compiler.evaluate import metrics
from compiler.evaluate.child import Evaluation
from compiler.evaluate.race import Latency
from compiler.graph.data import Arrays
from compiler.graph.folder import ModelFolder
from compiler.recipes.variant import Variant
from compiler.targets.catalog import Target
from compiler.toolchains.source import Source
from compiler.toolchains.steps import Built
from fleet.artifact.manifest import (
    FORMAT,
    Feature,
    Manifest,
    Metric,
    Payload,
    Tolerance,
)
from fleet.artifact.package import Package
from fleet.artifact.parity import Parity
from fleet.drift import calibrate
from fleet.errors import CallerError

CANDIDATE: Final = "candidate"
_SEED: Final = 7
_COSINE_ROOM: Final = {"fp32": 1e-5, "fp16": 1e-3}
_COSINE_ROOM_INT: Final = 0.01
_LARGEST: Final = 1e30


@dataclass(frozen=True)
class Subject:
    """What an artifact is an artifact of."""

    folder: ModelFolder
    version: str
    source: Source


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found of a candidate that is packed.

    Attributes:
        status: accepted or unproven.
        evaluation: of the file itself, or of what stands in for it, on the held-out split.
        latency: where the file itself was timed.
        measured: whether the memory is the file's own.
    """

    status: str
    evaluation: Evaluation
    latency: Latency | None
    measured: bool


def provisional(
    subject: Subject, built: Built, *, golden_inputs: Arrays, golden_outputs: Arrays
) -> Package:
    """A package for the evaluation: it can be opened, and promises nothing."""
    manifest = _manifest(
        subject,
        built,
        target="",
        hardware_classes=[],
        recipe=CANDIDATE,
        tolerance=Tolerance(cosine_min=-1.0, max_abs=_LARGEST),
        metric=Metric(name=subject.folder.metric.name, value=0.0, reference=0.0),
        status=CANDIDATE,
    )
    return Package(
        manifest=manifest,
        payload=built.payload,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
    )


def final(
    subject: Subject,
    built: Built,
    content: Package,
    *,
    target: Target,
    variant: Variant,
    proof: Proof,
) -> Package:
    """The artifact, not yet attested.

    Args:
        subject: what it is of.
        built: the file.
        content: its provisional package, for the golden vectors.
        target: what it is for.
        variant: how it was made.
        proof: what was found of it.
    """
    result = proof.evaluation.result
    golden, value, reference = result.golden, result.metric, result.reference
    if golden is None or value is None or reference is None:
        raise ValueError("what is packed was measured on the held-out split")
    rule, evidence = subject.folder.metric, result.evidence
    manifest = _manifest(
        subject,
        built,
        target=target.name,
        hardware_classes=list(target.hardware_classes),
        recipe=variant.name,
        tolerance=tolerance(golden, variant.recipe.precision, content.golden_outputs),
        metric=Metric(
            name=rule.name,
            value=value,
            reference=reference,
            higher_is_better=metrics.higher_is_better(rule),
        ),
        status=proof.status,
        evidence=evidence.strength if evidence else "weak",
        samples_needed=evidence.samples_needed if evidence else None,
        runtime_version=built.runtime_version or result.runtime_version,
        features=watched(proof.evaluation.arrays),
        latency_ms_p50=proof.latency.p50 if proof.latency else 0.0,
        latency_ms_p95=proof.latency.p95 if proof.latency else 0.0,
        peak_memory_mib=result.peak_memory_mib if proof.measured else 0.0,
    )
    return Package(
        manifest=manifest,
        payload=built.payload,
        golden_inputs=content.golden_inputs,
        golden_outputs=content.golden_outputs,
    )


def tolerance(golden: Parity, precision: str, outputs: Arrays) -> Tolerance:
    """How far a device's answers on the golden vectors may lie off: the measured distance, with room.

    Args:
        golden: the distance measured here.
        precision: of the recipe; integer arithmetic differs more between processors.
        outputs: the golden answers, whose range scales the room of the absolute difference.
    """
    room = _COSINE_ROOM.get(precision, _COSINE_ROOM_INT)
    scale = max(
        (float(np.abs(a.astype(np.float64)).max(initial=0)) for a in outputs.values()), default=0
    )
    return Tolerance(
        cosine_min=round(max(-1.0, 1 - 3 * (1 - golden.cosine_min) - room), 6),
        max_abs=min(2 * golden.max_abs + room * max(scale, 1e-3), _LARGEST),
    )


def watched(arrays: Arrays) -> list[Feature]:
    """Watched features with thresholds, from the artifact's own answers on calibration data."""
    prefix = "feature:"
    names = sorted(name for name in arrays if name.startswith(prefix))
    rng = np.random.default_rng(_SEED)
    found = []
    for name in names:
        values = arrays[name].astype(np.float64)
        try:
            feature = calibrate.feature(
                name.removeprefix(prefix), values, rng=rng, features_n=len(names)
            )
        except CallerError:
            continue  # not one finite value: there is nothing to watch
        found.append(feature)
    return found


def _manifest(  # noqa: PLR0913 - a manifest has many fields; they are named at each call
    subject: Subject,
    built: Built,
    *,
    target: str,
    hardware_classes: list[str],
    recipe: str,
    tolerance: Tolerance,
    metric: Metric,
    status: str,
    evidence: str = "weak",
    samples_needed: int | None = None,
    runtime_version: str = "",
    features: Sequence[Feature] = (),
    latency_ms_p50: float = 0.0,
    latency_ms_p95: float = 0.0,
    peak_memory_mib: float = 0.0,
) -> Manifest:
    return Manifest(
        format=FORMAT,
        model=subject.folder.name,
        version=subject.version,
        task=subject.folder.task,
        target=target,
        hardware_classes=hardware_classes,
        runtime=built.runtime,
        runtime_version=runtime_version,
        recipe=recipe,
        source_sha256=subject.source.model.sha256,
        inputs=subject.source.inputs,
        outputs=subject.source.outputs,
        payload=Payload(
            member=built.member,
            sha256=hashlib.sha256(built.payload).hexdigest(),
            size_bytes=len(built.payload),
        ),
        tolerance=tolerance,
        metric=metric,
        status=status,
        evidence=evidence,
        samples_needed=samples_needed,
        input_bindings=built.input_bindings,
        output_bindings=built.output_bindings,
        fixed_batch=built.fixed_batch,
        features=list(features),
        latency_ms_p50=latency_ms_p50,
        latency_ms_p95=latency_ms_p95,
        peak_memory_mib=peak_memory_mib,
        licence=subject.folder.licence,
    )
