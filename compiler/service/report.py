"""``report.json``: what was tried for each target, with figures, and what was chosen and why.

The document is versioned; a reader ignores fields that it does not know. Its JSON Schema is
`docs/reference/report.schema.json`, made from these types.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

import msgspec

from compiler.evaluate.evidence import Evidence
from compiler.evaluate.gates import Gate
from compiler.evaluate.race import Latency
from compiler.evaluate.split import Split
from compiler.toolchains.workshop import Bars, LayerCost, LayerError
from fleet.artifact.parity import Parity

FORMAT: Final = "outrider/report/1"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the document's parts."""


class Verdict(StrEnum):
    """What became of a candidate; ``passed``: it could have been chosen, and another one was."""

    ACCEPTED = "accepted"
    UNPROVEN = "unproven"
    PASSED = "passed"
    REJECTED = "rejected"
    FAILED = "failed"
    SKIPPED = "skipped"


class Metric(Part, frozen=True):
    """The task metric on some evaluation samples: the candidate's and the fp32 model's.

    Attributes:
        budget: largest loss that is accepted.
        exact: the artifact's own, with reference arithmetic.
        host: what this host's kernels make of it.
        samples: how many could be told apart; 0 for a custom metric of one number.
    """

    name: str
    value: float
    reference: float
    budget: float = 0.0
    higher_is_better: bool = True
    exact: float | None = None
    host: float | None = None
    samples: int = 0

    @property
    def loss(self) -> float:
        """By how much the candidate is worse; negative when it is better."""
        found = self.reference - self.value
        return found if self.higher_is_better else -found


class Model(Part, frozen=True):
    """The model, and its fp32 figures on this host.

    Attributes:
        sha256: of the ONNX file with its external data.
        metric: over all evaluation samples.
        split: how they are divided into those that choose and those that decide.
        calibration_samples: how many there are.
        notes: what was changed for the backends, such as an upgraded opset.
    """

    name: str
    version: str
    sha256: str
    task: str = ""
    licence: str = ""
    size_bytes: int = 0
    opset: int = 0
    metric: Metric | None = None
    split: Split | None = None
    calibration_samples: int = 0
    latency_ms: Latency | None = None
    notes: list[str] = []


class Candidate(Part, frozen=True):
    """One variant of a recipe that was tried.

    Attributes:
        recipe: its decodable name: recipe, calibrator, and how many layers were kept.
        verdict: what became of it; `reason` says by how much.
        path: of the artifact, relative to the report; empty when none was written.
        sha256: of the artifact's file when one was written, else of the built file.
        size_bytes: of the same.
        selection: the metric on the selection split, which chooses.
        metric: the metric on the held-out split, which decides; None for what was not named for it.
        evidence: of the loss on the held-out split.
        parity: on calibration samples, under the arithmetic that was judged.
        parity_exact, parity_host: under reference arithmetic, and with this host's kernels.
        judged: which of both: ``host`` or ``exact``.
        latency_source: ``this host``, ``n devices``, or ``estimate``.
        kept: layers that mixed precision left out of the integers, with what quantizing each alone costs.
        fallen: layers on which the quantizer failed and that stay in float, with its reason.
        layers: error per layer, of the chosen candidate.
        weights, activations: histograms, of the chosen candidate.
        tools: toolchains that made it, with the digest of their locks.
        finished: what a finishing toolchain said of its file.
    """

    recipe: str
    runtime: str
    verdict: Verdict
    reason: str
    title: str = ""
    precision: str = ""
    calibrator: str = ""
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0
    payload_sha256: str = ""
    payload_size_bytes: int = 0
    selection: Metric | None = None
    metric: Metric | None = None
    evidence: Evidence | None = None
    parity: Parity | None = None
    parity_exact: Parity | None = None
    parity_host: Parity | None = None
    judged: str = ""
    latency_ms: Latency | None = None
    latency_source: str = ""
    peak_memory_mib: float | None = None
    kept: list[LayerCost] = []
    fallen: dict[str, str] = {}
    gates: list[Gate] = []
    operators: dict[str, int] = {}
    layers: list[LayerError] = []
    weights: dict[str, Bars] = {}
    activations: dict[str, Bars] = {}
    tools: dict[str, str] = {}
    finished: dict[str, Any] = {}
    build_s: float = 0.0


class TargetReport(Part, frozen=True):
    """One target: what was decided and everything that was tried, in order.

    Attributes:
        chosen: what became the artifact; for engines and NPU binaries the one that devices of the class prefer.
        fallback: the portable artifact beside it, for devices that cannot run the chosen one, or not yet.
        named: candidates that were named before the held-out split was read, in the order of preference.
        baseline_ms: latency of the fastest float file, where speed was compared.
    """

    target: str
    status: Verdict
    reason: str
    evidence: str
    chosen: Candidate | None
    candidates: list[Candidate]
    fallback: Candidate | None = None
    fallback_candidates: list[Candidate] = []
    named: list[str] = []
    baseline_ms: Latency | None = None
    hardware_classes: list[str] = []


class Report(Part, frozen=True):
    """The whole document."""

    format: str
    model: Model
    targets: list[TargetReport]
    host: dict[str, str] = {}
    digests: dict[str, str] = {}
    compiler: dict[str, str] = {}


def encode(report: Report) -> bytes:
    """The document as it is written."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def schema() -> dict[str, Any]:
    """The document's JSON Schema."""
    return msgspec.json.schema(Report)
