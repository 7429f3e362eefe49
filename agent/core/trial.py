"""From verified bytes to a committed release, or back: building, self-test, activation, probation, rollback.

Rules:
- The incumbent answers until the candidate does; it stays loaded until the candidate is committed.
- Whatever goes wrong with the candidate leads to `rolling_back`, and from there what was active answers.
- What is on trial for the cloud ends with its figures: it never answers anybody.
"""

from __future__ import annotations

from agent.core.acquire import Acquisition
from agent.core.building import Building
from agent.core.commands import TestWorker
from agent.core.context import Context
from agent.core.events import Built, SelfTested
from agent.core.mover import Mover
from agent.core.probation import Probation, Verdict
from agent.core.service import Phase, Running, Service
from agent.core.states import State, Trigger
from agent.errors import LoopError, ProbationError, SelfTestError, WorkerLostError

MAX_STORES = 24
"""A clean update saves up to four heavy states; each restart in one of them costs up to five more."""

RESTORE_TIMEOUT_S = 60.0


class Trial:
    """Tries one model's candidate.

    Args:
        ctx: the core's surroundings.
        mover: the model's record.
        service: the model's workers.
        acquisition: refuses what comes too late.
        building: makes engines.
    """

    def __init__(
        self,
        ctx: Context,
        mover: Mover,
        service: Service,
        acquisition: Acquisition,
        building: Building,
    ) -> None:
        self._ctx, self._mover, self._service = ctx, mover, service
        self._acquisition, self._building = acquisition, building
        self._probation: Probation | None = None
        self._restoring_until = 0.0

    def deadline(self) -> float | None:
        """When `work` has something to do although nothing happened."""
        times = [self._restoring_until] if self._restoring_until > self._ctx.now else []
        if self._probation is not None:
            times.append(self._probation.deadline())
        return min(times) if times else None

    def work(self, *, lock_free: bool) -> None:
        """Do what is next in `staged` and the heavy states."""
        state = self._mover.state
        free = lock_free and not self._ctx.unsaved and not self._building.resting
        if state is State.STAGED and free:
            self._begin()
        elif state in {State.SELF_TESTING, State.ACTIVATING} and self._service.candidate is None:
            self.disprove(WorkerLostError.code, "the candidate's process is gone")
        elif state is State.PROBATION:
            self._judge()
        elif state is State.ROLLING_BACK:
            self._restore()

    def _begin(self) -> None:
        candidate = self._mover.record.candidate
        if candidate is None or self._acquisition.refuse_late(candidate):
            return
        stores = self._mover.record.stores
        if stores >= MAX_STORES:
            self.disprove(LoopError.code, f"given up after {stores} steps cut short by restarts")
        elif candidate.builds and not candidate.engine:
            if self._mover.move(Trigger.BUILD):
                self._building.begin(candidate)
        elif self._mover.move(Trigger.TEST):
            self._service.try_out(candidate)

    def built(self, event: Built) -> None:
        """The candidate's engine is there: it is tested next."""
        candidate = self._building.built(event)
        if candidate is not None:
            self._service.try_out(candidate)

    # --- what the candidate's worker answers -----------------------------------------------------

    def loaded(self, running: Running) -> None:
        """The candidate is in memory: golden vectors next."""
        if self._mover.state is State.SELF_TESTING:
            self._ctx.do(TestWorker(worker=running.worker))

    def tested(self, running: Running, event: SelfTested) -> None:
        """The golden vectors have run through the candidate."""
        result = event.result
        figures = {
            "golden_cosine_min": result.cosine_min,
            "golden_max_abs": result.max_abs,
            "latency_ms_p50": result.latency_ms_p50,
            "latency_ms_p95": result.latency_ms_p95,
            "peak_memory_mib": result.peak_memory_mib,
        }
        if self._mover.state not in {State.SELF_TESTING, State.PROBATION}:
            return
        if not result.passed:
            self.disprove(SelfTestError.code, result.detail or "the golden vectors differ", figures)
        elif self._mover.state is State.PROBATION:
            self._commit(figures)
        elif running.content.trial:
            if self._mover.move(Trigger.MEASURED, figures=figures, facts=dict(result.facts)):
                self._service.end(running)
        elif self._mover.move(Trigger.PASSED, figures=figures, facts=dict(result.facts)):
            self._service.promote(running)

    def promoted(self) -> None:
        """The candidate answers: probation begins, the incumbent rests."""
        if self._mover.state is not State.ACTIVATING or not self._mover.move(Trigger.ACTIVATED):
            return
        self._probation = Probation(self._ctx)
        incumbent = self._service.incumbent
        if incumbent is not None and incumbent.phase is Phase.SERVING:
            self._service.rest(incumbent)

    def incumbent_promoted(self, incumbent: Running) -> None:
        """The incumbent answers; after a restart it may come up later than its candidate, and rests."""
        if self._mover.state is State.PROBATION:
            self._service.rest(incumbent)

    def counted(self, inferences: int, errors: int) -> None:
        """The candidate has answered."""
        if self._probation is not None:
            self._probation.add(inferences, errors)

    # --- decisions -------------------------------------------------------------------------------

    def _judge(self) -> None:
        candidate, probation = self._service.candidate, self._probation
        if probation is None or candidate is None:
            self.disprove(WorkerLostError.code, "the candidate's process is gone")
            return
        verdict = probation.judge()
        if verdict is Verdict.PROVED:
            self._commit(probation.figures())
        elif verdict is Verdict.DISPROVED:
            self.disprove(ProbationError.code, probation.text(), probation.figures())
        elif verdict is Verdict.ASK:
            self._service.ask(candidate, close=False)
        elif verdict is Verdict.TEST:
            self._ctx.do(TestWorker(worker=candidate.worker))

    def _commit(self, figures: dict[str, float]) -> None:
        if self._mover.move(Trigger.PROVED, figures=figures):
            self._probation = None
            self._service.take_over()

    def disprove(self, code: str, detail: str, figures: dict[str, float] | None = None) -> None:
        """Give the candidate up."""
        if self._mover.disprove(code, detail, figures):
            self._acquisition.stop()
            self._probation = None

    def _restore(self) -> None:
        service, now = self._service, self._ctx.now
        self._restoring_until = self._restoring_until or now + RESTORE_TIMEOUT_S
        incumbent = service.incumbent
        if incumbent is not None and incumbent.phase is Phase.STANDBY:
            service.promote(incumbent)
            return
        answers = incumbent is not None and incumbent.phase is Phase.SERVING
        hopeless = now >= self._restoring_until or (incumbent is None and service.start_failed)
        if self._mover.record.active is None or answers or hopeless:
            self._restoring_until = 0.0
            if self._mover.move(Trigger.RESTORED) and service.candidate is not None:
                service.end(service.candidate)
