"""Building a candidate's engine on this device, between `staged` and the self-test.

Rules:
- One build at a time on a device: it is heavy. It is asked for after its state is saved, and an answer that
  never comes has a deadline.
- What may pass (too little memory) is tried again after a pause, a few times; the record's store counter
  breaks a loop of restarts.
- A build that is no longer wanted is cancelled at once.
"""

from __future__ import annotations

import msgspec

from agent.core.backoff import Backoff
from agent.core.commands import Build, CancelBuild
from agent.core.context import Context
from agent.core.events import BuildFailed, BuildProgress, Built
from agent.core.mover import Mover
from agent.core.records import SlotContent
from agent.core.reporting import report
from agent.core.states import State, Trigger
from agent.errors import BuildLostError

ATTEMPTS = 3
GRACE_S = 120.0
"""The shell ends a build on time; this is for an answer that never comes."""
_REPORT_STEP = 0.1


class Building:
    """Builds for one model.

    Args:
        ctx: the core's surroundings.
        mover: the model's record.

    Attributes:
        progress: share of the build under way that is done, 0 to 1.
    """

    def __init__(self, ctx: Context, mover: Mover) -> None:
        self._ctx, self._mover = ctx, mover
        self._asked = ""
        self._until = self._retry_at = 0.0
        self._attempts = 0
        self._reported = 0.0
        self._backoff = Backoff(60.0, 600.0)
        self.progress = 0.0

    @property
    def resting(self) -> bool:
        """Whether the next attempt is not due yet."""
        return self._ctx.now < self._retry_at

    def deadline(self) -> float | None:
        """When there is something to do although nothing happened."""
        if self._asked:
            return self._until
        return self._retry_at if self.resting else None

    def begin(self, candidate: SlotContent) -> None:
        """Build the engine of a candidate; its state is saved."""
        self._asked, self.progress, self._reported = candidate.sha256, 0.0, 0.0
        self._until = self._ctx.now + self._ctx.settings.build_timeout_s + GRACE_S
        self._ctx.do(
            Build(
                model=self._mover.record.model,
                sha256=candidate.sha256,
                length_bytes=candidate.length_bytes,
                slot=candidate.slot,
            )
        )

    def work(self) -> None:
        """Cancel what is not wanted any more; give up on an answer that never came."""
        if self._asked and self._mover.state is not State.BUILDING:
            self.cancel()
        elif self._mover.state is State.BUILDING and self._ctx.now >= self._until:
            self.cancel()
            self._mover.disprove(BuildLostError.code, "the build was asked for and never answered")

    def cancel(self) -> None:
        """End the build under way."""
        if self._asked:
            self._ctx.do(CancelBuild(model=self._mover.record.model))
        self._forget()

    def fresh(self) -> None:
        """Another candidate: what failed before says nothing of it."""
        self._attempts, self._retry_at = 0, 0.0
        self._backoff.reset()

    def on_progress(self, event: BuildProgress) -> None:
        """The builder said how far it is."""
        if not self._expects(event.sha256):
            return
        self.progress = event.fraction
        if event.fraction >= self._reported + _REPORT_STEP:
            self._reported = event.fraction
            report(self._ctx, self._mover.record, progress=event.fraction)

    def built(self, event: Built) -> SlotContent | None:
        """The engine is there and attested; the candidate with it, ready to be tested."""
        candidate = self._mover.record.candidate
        if not self._expects(event.sha256) or candidate is None:
            return None
        self._forget()
        self.fresh()
        made = msgspec.structs.replace(candidate, engine=event.engine)
        moved = self._mover.move(
            Trigger.BUILT, figures=event.figures, candidate=made, error_code="", detail=event.detail
        )
        self._ctx.event(
            "engine.built",
            f"{event.detail}; engine sha256 {event.engine}",
            model=self._mover.record.model,
            release=made.release,
            figures=event.figures,
        )
        return made if moved else None

    def failed(self, event: BuildFailed) -> None:
        """There is no engine."""
        if not self._expects(event.sha256):
            return
        self._forget()
        self._attempts += 1
        if event.retryable and self._attempts < ATTEMPTS:
            self._retry_at = self._ctx.now + self._backoff.next_s()
            self._mover.move(Trigger.POSTPONED, error_code=event.code, detail=event.detail)
        else:
            self.fresh()
            self._mover.disprove(event.code, event.detail)

    def _expects(self, sha256: str) -> bool:
        return self._mover.state is State.BUILDING and self._asked == sha256

    def _forget(self) -> None:
        self._asked, self._until, self.progress = "", 0.0, 0.0
