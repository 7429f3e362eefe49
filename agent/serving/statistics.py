"""What a worker counts: figures for telemetry windows, totals for the statistics endpoint.

Rules:
- `inferences` counts samples, `latency_ms` and `errors` count requests. An error is a failure of the model or
  its runtime; a request that its sender must mend is none.
- Features are taken from every sample, while they take at most a fifth of the time (beyond a first quarter of a
  second per window); then some requests are left out of the features, never out of the counts.
- Values are gathered as they come, and binned many at once.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.errors import LoadError
from agent.serving.port import Figures
from fleet.artifact.manifest import Manifest
from fleet.telemetry import features, histogram
from fleet.telemetry.histogram import Histogram
from fleet.telemetry.window import LATENCY_EDGES_MS

Array = NDArray[np.generic]
_GATHERED = 512
_SHARE = 0.2
_FREE_NS = 250_000_000


@dataclass
class Totals:
    """Since the worker started; durations in nanoseconds."""

    requests: int = 0
    samples: int = 0
    failures: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    failed_ns: int = 0
    last_ms: int = 0


@dataclass(frozen=True)
class Timing:
    """When a request came in, started to run, and was answered: monotonic nanoseconds."""

    arrived_ns: int
    started_ns: int
    ended_ns: int


class Binned:
    """A histogram that is filled value by value."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        """An empty one."""
        self._edges = edges
        self._histogram = histogram.empty(edges)
        self._values: list[NDArray[np.float64]] = []

    def add(self, values: NDArray[np.float64]) -> None:
        """Take values of shape (n,)."""
        self._values.append(values)
        if len(self._values) >= _GATHERED:
            self._bin()

    def take(self) -> Histogram:
        """What was added since the last call."""
        self._bin()
        taken, self._histogram = self._histogram, histogram.empty(self._edges)
        return taken

    def _bin(self) -> None:
        if self._values:
            new = histogram.of(self._edges, np.concatenate(self._values))
            self._histogram = histogram.merge(self._histogram, new)
            self._values = []


class Statistics:
    """Counters and histograms of one worker; filled on its inference thread, read from any."""

    def __init__(self, manifest: Manifest) -> None:
        """Nothing counted yet.

        Raises:
            LoadError: the manifest watches a feature that its tensors do not have.
        """
        known = {f"input:{spec.name}" for spec in manifest.inputs}
        known |= {f"output:{spec.name}" for spec in manifest.outputs}
        strange = [f.name for f in manifest.features if f.name.rpartition(":")[0] not in known]
        if strange:
            raise LoadError(
                f"expected features of {sorted(known)}, found {strange}; build the artifact again"
            )
        self._lock = threading.Lock()
        self._features = {f.name: Binned(f.reference.edges) for f in manifest.features}
        self._latency = Binned(LATENCY_EDGES_MS)
        self._classes: Counter[int] = Counter()
        self._scores = _scores(manifest)
        self._inferences = self._errors = 0
        self._watching_ns = 0
        self._since_ns = time.monotonic_ns()
        self.totals = Totals()

    def answered(self, samples: int, timing: Timing) -> None:
        """Count a request that was answered."""
        latency_ms = (timing.ended_ns - timing.arrived_ns) / 1e6
        with self._lock:
            self._inferences += samples
            self._latency.add(np.array([latency_ms]))
            totals = self.totals
            totals.requests += 1
            totals.samples += samples
            totals.queue_ns += timing.started_ns - timing.arrived_ns
            totals.compute_ns += timing.ended_ns - timing.started_ns
            totals.last_ms = int(time.time() * 1000)

    def failed(self, timing: Timing) -> None:
        """Count a request on which the model failed."""
        with self._lock:
            self._errors += 1
            self.totals.failures += 1
            self.totals.failed_ns += timing.ended_ns - timing.arrived_ns

    def watch(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        """Take the features and classes of an answered request."""
        started_ns = time.monotonic_ns()
        if self._watching_ns <= _FREE_NS + _SHARE * (started_ns - self._since_ns):
            found = features.of(inputs, outputs, names=self._features)
            with self._lock:
                for name, values in found.items():
                    self._features[name].add(values)
        with self._lock:
            if self._scores:
                self._classes.update(np.argmax(outputs[self._scores], axis=1).tolist())
            self._watching_ns += time.monotonic_ns() - started_ns

    def take(self) -> Figures:
        """What was counted since the last call."""
        with self._lock:
            figures = Figures(
                inferences=self._inferences,
                errors=self._errors,
                features={name: binned.take() for name, binned in self._features.items()},
                latency_ms=self._latency.take(),
                classes=dict(self._classes),
            )
            self._inferences = self._errors = 0
            self._classes.clear()
            self._watching_ns, self._since_ns = 0, time.monotonic_ns()
        return figures


def _scores(manifest: Manifest) -> str:
    """The first output that holds class scores; empty when there is none."""
    for name in features.names_for(manifest.inputs, manifest.outputs):
        side, _, rest = name.partition(":")
        tensor, _, kind = rest.rpartition(":")
        if side == "output" and kind == "confidence":
            return tensor
    return ""
