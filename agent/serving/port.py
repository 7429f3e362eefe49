"""The serving port: what the daemon's shell asks of a worker process.

Rules:
- One worker process per loaded version; it owns its tensors, and after promotion its listening socket.
- Every call is bounded by a timeout of its own; a worker that dies, hangs or answers junk raises
  `WorkerLostError` and costs nothing but that worker.
- The candidate is loaded and tested while the incumbent goes on answering; promotion hands a
  duplicate of the listening socket over, then the old worker is told to drain.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Protocol

import msgspec

from fleet.telemetry.histogram import Histogram


def attestation_of(engine: Path) -> Path:
    """Where the attestation of an engine lies: beside it."""
    return engine.with_suffix(".json")


class WorkerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker should load.

    Attributes:
        path: the artifact's file.
        sha256, length_bytes: what verified metadata says of it; the worker checks again, on the
            very bytes that it loads.
        engine: what this device built from the artifact's payload, to be loaded in its place; None where the
            payload itself is loaded. Its attestation is beside it.
        device_key: public key of the device in PEM, which has signed the attestation.
        runtime_wrapper: ``package.module:function`` around the runtime, from the configuration; empty for none.
    """

    model: str
    release: str
    path: Path
    sha256: str
    length_bytes: int
    threads: int = 1
    runtime_wrapper: str = ""
    engine: Path | None = None
    device_key: bytes = b""
    unsigned: bool = False


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of the golden vectors through the real runtime.

    Attributes:
        latency_ms_p50, latency_ms_p95: of single samples.
        facts: what it ran on, by name: runtime and its version, and what the runtime adds.
    """

    passed: bool
    cosine_min: float
    max_abs: float
    latency_ms_p50: float
    peak_memory_mib: float
    detail: str = ""
    latency_ms_p95: float = 0.0
    facts: dict[str, str] = {}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker counted since the last time it was asked."""

    inferences: int
    errors: int
    features: dict[str, Histogram]
    latency_ms: Histogram
    classes: dict[int, int]


class Worker(Protocol):
    """A running worker process."""

    spec: WorkerSpec

    async def self_test(self) -> SelfTest:
        """Run the golden vectors. Raises WorkerLostError."""

    async def promote(self, listener: socket.socket) -> None:
        """Start to answer the Open Inference Protocol on a duplicate of `listener`."""

    async def drain(self) -> None:
        """Stop to accept, finish what is in flight."""

    async def take_figures(self) -> Figures:
        """Counts and histograms since the last call; the worker's own are reset."""

    async def stop(self) -> None:
        """End the process; kill it when it does not end in time. Never raises."""

    async def wait_exit(self) -> str:
        """Return, when the process has ended, why: ``exit 0``, ``signal 11``."""


class Workers(Protocol):
    """Starts worker processes."""

    async def start(self, spec: WorkerSpec) -> Worker:
        """Start a process and load the artifact in it.

        Raises:
            LoadError, RuntimeMissingError, VerificationError, WorkerLostError.
        """
