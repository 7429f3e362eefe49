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
from fleet.artifact.parity import Parity

FORMAT: Final = "outrider/report/1"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the document's parts."""


class Verdict(StrEnum):
    """What became of a candidate."""

    ACCEPTED = "accepted"
    UNPROVEN = "unproven"
    REJECTED = "rejected"
    FAILED = "failed"
    SKIPPED = "skipped"


class Latency(Part, frozen=True):
    """Of one sample on one thread of this host, in milliseconds."""

    p50: float
    p95: float


class Model(Part, frozen=True):
    """The model, and its fp32 figures on this host.

    Attributes:
        sha256: of the ONNX file with its external data.
        notes: what was changed for the backends, such as an upgraded opset.
    """

    name: str
    version: str
    sha256: str
    task: str = ""
    licence: str = ""
    size_bytes: int = 0
    opset: int = 0
    latency_ms: Latency | None = None
    notes: list[str] = []


class Metric(Part, frozen=True):
    """The task metric on the held-out split: the candidate's and the fp32 model's.

    Attributes:
        budget: largest loss that is accepted.
        exact: the artifact's own, with optimizations off, where this host's kernels may differ.
    """

    name: str
    value: float
    reference: float
    budget: float = 0.0
    higher_is_better: bool = True
    exact: float | None = None


class Candidate(Part, frozen=True):
    """One recipe that was tried.

    Attributes:
        verdict: what became of it; `reason` says by how much.
        path: of the artifact, relative to the report; empty when none was written.
        sha256: of the artifact's file when one was written, else of the built file.
        size_bytes: of the same.
        parity_exact: with optimizations off.
        tools: toolchains that made it, with the digest of their locks.
    """

    recipe: str
    runtime: str
    verdict: Verdict
    reason: str
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0
    payload_sha256: str = ""
    payload_size_bytes: int = 0
    metric: Metric | None = None
    parity: Parity | None = None
    parity_exact: Parity | None = None
    latency_ms: Latency | None = None
    peak_memory_mib: float | None = None
    layers_kept_float: list[str] = []
    evidence: Evidence | None = None
    gates: list[Gate] = []
    operators: dict[str, int] = {}
    tools: dict[str, str] = {}
    build_s: float = 0.0


class TargetReport(Part, frozen=True):
    """One target: what was decided and everything that was tried, in order."""

    target: str
    status: Verdict
    reason: str
    evidence: str
    chosen: Candidate | None
    candidates: list[Candidate]
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
