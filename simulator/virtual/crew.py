"""Worker processes in virtual time: they take time, verify what they load, count, fail and die.

Rules:
- What a worker loads it verifies itself, by the product's own code, from the very file in the slot.
- Commands on one worker are carried out one after the other; when power goes away all workers do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np

from agent.core import commands as cmd
from agent.core import events as ev
from agent.errors import EngineMissingError
from agent.runtimes import tensorrt
from agent.serving.port import Figures, SelfTest
from fleet.errors import OutriderError
from fleet.telemetry import histogram
from fleet.telemetry.window import LATENCY_EDGES_MS
from ota.verify import artifact
from ota.verify.artifact import VerifiedArtifact
from simulator.virtual.schedule import Schedule

LOAD_S = (0.2, 3.0)
TEST_S = (0.1, 1.0)
CALL_S = (0.001, 0.02)
STOP_S = (0.05, 1.0)


class Trouble(str, Enum):
    """What is wrong with a release on a device."""

    SELF_TEST = "self_test"
    CRASH = "crash"


@dataclass
class SimWorker:
    """One worker process.

    Attributes:
        serving: whether it accepts requests on its model's socket.
        free_at: when it has done what it was asked so far.
    """

    number: int
    model: str
    release: str
    free_at: float
    loaded: VerifiedArtifact | None = None
    serving: bool = False
    counted_until: float = 0.0
    carry: float = 0.0
    inferences: int = 0


@dataclass
class Crew:
    """A device's workers.

    Attributes:
        post: hands an event to the device's core, as long as this boot lasts.
        slot_path: where a slot's artifact lies.
        engines: what the device has built, engine by artifact.
        trouble: what is wrong with an artifact here, by its sha256.
        rate: requests per second that applications send.
    """

    schedule: Schedule
    rng: random.Random
    post: Callable[[ev.Event], None]
    slot_path: Callable[[str, str], Path]
    engines: Callable[[], dict[str, str]]
    trouble: dict[str, Trouble]
    rate: float
    workers: dict[int, SimWorker] = field(default_factory=dict)

    def take(self, command: cmd.Command) -> bool:
        """Plan a command on a worker; false when it is none."""
        if isinstance(command, cmd.StartWorker):
            worker = SimWorker(
                command.worker, command.model, command.release, free_at=self.schedule.now
            )
            self.workers[command.worker] = worker
            self._plan(worker, LOAD_S, lambda: self._load(worker, command))
        elif isinstance(command, cmd.TestWorker):
            self._on(command.worker, TEST_S, self._test)
        elif isinstance(command, cmd.Promote):
            self._on(command.worker, CALL_S, self._promote)
        elif isinstance(command, cmd.Drain):
            self._on(command.worker, CALL_S, self._drain)
        elif isinstance(command, cmd.TakeFigures):
            self._on(command.worker, CALL_S, self._figures)
        elif isinstance(command, cmd.StopWorker):
            self._on(command.worker, STOP_S, self._stop)
        else:
            return False
        return True

    def serving(self, model: str) -> list[SimWorker]:
        """The workers that accept requests for a model."""
        return [w for w in self.workers.values() if w.model == model and w.serving]

    def _on(
        self, number: int, takes_s: tuple[float, float], act: Callable[[SimWorker], None]
    ) -> None:
        worker = self.workers.get(number)
        if worker is None:
            self.post(ev.WorkerExited(worker=number, reason="it was gone already"))
            return
        self._plan(worker, takes_s, lambda: act(worker))

    def _plan(
        self, worker: SimWorker, takes_s: tuple[float, float], act: Callable[[], None]
    ) -> None:
        worker.free_at = max(worker.free_at, self.schedule.now) + self.rng.uniform(*takes_s)

        def work() -> None:
            if self.workers.get(worker.number) is worker:
                act()

        self.schedule.after(worker.free_at - self.schedule.now, work)

    # --- what workers do --------------------------------------------------------------------------

    def _load(self, worker: SimWorker, command: cmd.StartWorker) -> None:
        try:
            data = self.slot_path(command.model, command.slot).read_bytes()
            worker.loaded = artifact.from_target(
                data, sha256=command.sha256, length_bytes=command.length_bytes
            )
        except OSError as error:
            self._fail(worker, "runtime.load", str(error))
            return
        except OutriderError as error:
            self._fail(worker, error.code, str(error))
            return
        builds = tensorrt.builds(worker.loaded.package.manifest)
        if builds and self.engines().get(command.sha256) != (command.engine or "none"):
            self._fail(worker, EngineMissingError.code, f"no engine {command.engine[:12]}")
            return
        features = worker.loaded.package.manifest.features
        self.post(ev.WorkerReady(worker=worker.number, features=features))

    def _fail(self, worker: SimWorker, code: str, detail: str) -> None:
        self.post(ev.WorkerFailed(worker=worker.number, code=code, detail=detail))

    def _test(self, worker: SimWorker) -> None:
        passed = self._trouble(worker) is not Trouble.SELF_TEST
        result = SelfTest(
            passed=passed,
            cosine_min=1.0 if passed else 0.2,
            max_abs=0.0 if passed else 3.0,
            latency_ms_p50=1.0,
            latency_ms_p95=1.5,
            peak_memory_mib=20.0,
        )
        self.post(ev.SelfTested(worker=worker.number, result=result))

    def _promote(self, worker: SimWorker) -> None:
        worker.serving, worker.counted_until = True, self.schedule.now
        self.post(ev.Promoted(worker=worker.number, url=f"http://127.0.0.1/{worker.model}"))
        if self._trouble(worker) is Trouble.CRASH:
            self.schedule.after(self.rng.uniform(0.0, 3.0), lambda: self._crash(worker))

    def _crash(self, worker: SimWorker) -> None:
        if self.workers.get(worker.number) is worker:
            del self.workers[worker.number]
            self.post(ev.WorkerExited(worker=worker.number, reason="signal 11"))

    def _drain(self, worker: SimWorker) -> None:
        self._count(worker)
        worker.serving = False

    def _figures(self, worker: SimWorker) -> None:
        self._count(worker)
        taken, worker.inferences = worker.inferences, 0
        draws = np.random.default_rng(self.rng.getrandbits(64))
        watched = worker.loaded.package.manifest.features if worker.loaded else []
        figures = Figures(
            inferences=taken,
            errors=0,
            features={
                f.name: histogram.of(f.reference.edges, draws.normal(size=taken)) for f in watched
            },
            latency_ms=histogram.of(LATENCY_EDGES_MS, draws.gamma(2.0, 1.0, size=taken)),
            classes={0: taken} if taken else {},
        )
        self.post(ev.FiguresTaken(worker=worker.number, figures=figures))

    def _stop(self, worker: SimWorker) -> None:
        del self.workers[worker.number]
        self.post(ev.WorkerExited(worker=worker.number, reason="exit 0"))

    def _count(self, worker: SimWorker) -> None:
        if not worker.serving:
            return
        worker.carry += self.rate * (self.schedule.now - worker.counted_until)
        worker.counted_until = self.schedule.now
        answered = int(worker.carry)
        worker.carry -= answered
        worker.inferences += answered

    def _trouble(self, worker: SimWorker) -> Trouble | None:
        return self.trouble.get(worker.loaded.sha256) if worker.loaded else None
