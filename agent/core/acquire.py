"""From an assignment to verified bytes in the spare slot: waiting, fetching, staged.

Rules:
- What this device cannot run is said before a byte is fetched.
- Bytes that are in a slot already are hashed there and not fetched again.
- Where the assignment names a way of sending less, that is fetched first, and fills what it can of the artifact; a
  way that fails is told and costs nothing but itself.
- A full disk or a refusal that may pass is told once and tried again with growing pauses.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.core.backoff import Backoff
from agent.core.commands import Prepare, Stage
from agent.core.context import Context
from agent.core.events import (
    BlocksFailed,
    Prepared,
    PrepareFailed,
    RebuildFailed,
    Rebuilt,
    Staged,
    StageFailed,
)
from agent.core.fetch import Fetch
from agent.core.mover import Mover
from agent.core.records import SLOTS, SlotContent
from agent.core.reporting import report
from agent.core.states import State, Trigger
from agent.core.ways import Ways, blob
from agent.errors import ContentError, IncompatibleError, LateError
from fleet.wire.messages import Block, Refusal
from ota.errors import QuietError, TransferError
from ota.transfer.terms import DAY_S, quiet_until
from ota.verify.trust import Target

ASK_TIMEOUT_S = 600.0
STAGE_ATTEMPTS = 3
QUIET_LOOK_S = 900.0
_WAITS = frozenset({State.WAITING, State.FETCHING})


class Acquisition:
    """Brings one model's target into a slot.

    Args:
        ctx: the core's surroundings.
        mover: the model's record.
        found: sha256 of what each slot holds, hashed at boot.
        runtimes: names of the runtimes that this device may use.
    """

    def __init__(
        self,
        ctx: Context,
        mover: Mover,
        *,
        found: dict[str, str],
        runtimes: Callable[[], set[str]],
    ) -> None:
        self._ctx, self._mover, self._runtimes = ctx, mover, runtimes
        self._asked_until = self._retry_at = 0.0
        self._asked_slot = ""
        self._backoff = Backoff(5.0, 600.0)
        self._stage_failures = 0
        self.found = dict(found)
        self.target: Target | None = None
        self.fetch: Fetch | None = None
        self._ways = Ways(ctx, mover.record.model)

    def desire(self, target: Target | None) -> None:
        """What the assignment says now; other terms are followed at once, with what is there."""
        before, self.target = self.target, target
        if before is None or target is None or before.terms == target.terms:
            return
        self._retry_at = 0.0
        if self.fetch is not None:
            self.fetch.save()
            self.stop()

    def begin(self) -> None:
        """A new assignment."""
        self.stop()
        self._retry_at, self._stage_failures = 0.0, 0
        self._backoff.reset()
        self._ways.begin()

    def stop(self) -> None:
        """Whatever was asked for is not waited for any more."""
        if self.fetch is not None:
            self.fetch.end()
        self.fetch, self._asked_until, self._asked_slot = None, 0.0, ""
        self._ways.current = None

    def deadline(self) -> float | None:
        """When `work` has something to do although nothing happened."""
        if self._ctx.unsaved:
            return None
        times = [t for t in (self._asked_until, self._retry_at) if t > self._ctx.now]
        if self.fetch is not None and (due := self.fetch.deadline()) is not None:
            times.append(due)
        return min(times) if times else None

    def work(self) -> None:
        """Do what is next in `waiting` and `fetching`."""
        candidate, target = self._mover.record.candidate, self.target
        if candidate is None or target is None or candidate.sha256 != target.sha256:
            return
        if self._ctx.now < self._asked_until or self._ctx.unsaved:
            return
        if self._mover.state is State.WAITING:
            self._wait(candidate, target)
        elif self.fetch is None:
            self._take_up(candidate, target)
        elif self.fetch.complete and (rebuild := self._ways.rebuild(target, self.found)):
            self._asked_until = self._ctx.now + ASK_TIMEOUT_S
            self._ctx.do(rebuild)
        elif self.fetch.complete:
            self._backoff.reset()
            self.fetch.end()
            self._stage(candidate, target, self._spare(), fetched=True)
        elif not self._keep_quiet(target):
            self.fetch.pump()

    # --- waiting ---------------------------------------------------------------------------------

    def _wait(self, candidate: SlotContent, target: Target) -> None:
        problem = self._unsuitable(target)
        if problem:
            self._mover.move(Trigger.UNSUITABLE, error_code=IncompatibleError.code, detail=problem)
        elif self.refuse_late(candidate):
            return
        elif self._spare_with(candidate.sha256):
            self._take_up(candidate, target)
        elif not self._ctx.connected:
            self._wait_for("", "waits for the link to the cloud")
        elif not self._keep_quiet(target):
            self._take_up(candidate, target)

    def _keep_quiet(self, target: Target) -> bool:
        """Whether nothing may be fetched now; then it is said, and looked at again when that ends."""
        quiet = target.terms.quiet
        if not quiet or self._ctx.now < self._retry_at:
            return bool(quiet)
        if not self._ctx.time_confirmed:
            self._wait_for("", "waits for the cloud's time, to know whether it is in quiet hours")
            return True
        rest_s = quiet_until(quiet, self._ctx.time_of_day_s())
        if rest_s <= 0.0:
            return False
        end_s = int(self._ctx.time_of_day_s() + rest_s) % DAY_S
        if self.fetch is not None:
            self.fetch.save()
        until = f"{end_s // 3600:02}:{end_s % 3600 // 60:02}"
        self.postpone(
            QuietError.code,
            f"waits for the end of quiet hours ({', '.join(quiet)}) at {until} of this device's time",
            retry_s=min(rest_s, QUIET_LOOK_S),
        )
        return True

    def _wait_for(self, code: str, detail: str) -> None:
        record = self._mover.record
        if record.state is State.WAITING and (code, detail) != (record.error_code, record.detail):
            self._mover.save(error_code=code, detail=detail)
            report(self._ctx, self._mover.record)

    def _take_up(self, candidate: SlotContent, target: Target) -> None:
        if slot := self._spare_with(candidate.sha256):
            self._stage(candidate, target, slot, fetched=False)
        elif self._ctx.now >= self._retry_at:
            self._prepare(candidate.sha256, candidate.length_bytes)

    def _unsuitable(self, target: Target) -> str:
        mine = self._ctx.settings.hardware_class
        if target.hardware_classes and mine not in target.hardware_classes:
            return f"expected hardware class {', '.join(target.hardware_classes)}, found {mine}"
        runtimes = self._runtimes()
        if target.runtime not in runtimes:
            have = ", ".join(sorted(runtimes)) or "none"
            return f"expected runtime {target.runtime}, found {have}; install or allow it"
        return ""

    def refuse_late(self, content: SlotContent) -> bool:
        """End the assignment when the time for its activation has passed."""
        if not 0 < content.activate_before < self._ctx.trusted_now():
            return False
        self._mover.end_refused(
            LateError.code,
            f"expected activation before {content.activate_before:.0f}, "
            f"it is {self._ctx.trusted_now():.0f}; assign it again",
        )
        return True

    def _spare_with(self, sha256: str) -> str:
        active = self._mover.record.active
        taken = active.slot if active else ""
        slots = [s for s, found in self.found.items() if found == sha256 and s != taken]
        return slots[0] if slots else ""

    def _spare(self) -> str:
        active, previous = self._mover.record.active, self._mover.record.previous
        if active is not None:
            return next(s for s in SLOTS if s != active.slot)
        return next(s for s in SLOTS if previous is None or s != previous.slot)

    # --- fetching --------------------------------------------------------------------------------

    def _prepare(self, sha256: str, length_bytes: int) -> None:
        self._asked_until = self._ctx.now + ASK_TIMEOUT_S
        self._ctx.do(
            Prepare(model=self._mover.record.model, sha256=sha256, length_bytes=length_bytes)
        )

    def prepared(self, event: Prepared) -> None:
        """There is room; begin to fetch, or go on. Room for the artifact itself is made first."""
        target, way = self.target, self._ways.current
        if target is None or self.fetch is not None:
            return
        if way is not None and event.sha256 == way.sha256:
            self._fetch(blob(target, way), event)
        elif way is None and self._expects(event.sha256):
            chosen = None if event.bitmap else self._ways.choose(target, self.found)
            if chosen is not None:
                self._prepare(chosen.sha256, chosen.length)
            else:
                self._fetch(target, event)

    def _fetch(self, target: Target, left: Prepared) -> None:
        self._asked_until = 0.0
        model = self._mover.record.model
        try:
            self.fetch = Fetch(
                self._ctx, model, target, block_list=left.block_list, bitmap=left.bitmap
            )
        except TransferError as error:
            self._ctx.log("warning", error.code, f"begun anew: {error}")
            self.fetch = Fetch(self._ctx, model, target, block_list=b"", bitmap=b"")
        if self._mover.state is State.WAITING:
            self._mover.move(Trigger.FETCH, error_code="", detail="")

    def prepare_failed(self, event: PrepareFailed) -> None:
        """No room."""
        way = self._ways.current
        if way is not None and event.sha256 == way.sha256:
            self._leave_way(event.code, event.detail)
        elif self._expects(event.sha256):
            self.postpone(event.code, event.detail)

    def rebuilt(self, event: Rebuilt) -> None:
        """A way has filled what it could; what is missing is fetched."""
        if self._expects(event.sha256) and self._ways.current is not None:
            self._ways.arrived(event.filled_bytes)
            self.stop()

    def rebuild_failed(self, event: RebuildFailed) -> None:
        """A way did not lead there."""
        if self._expects(event.sha256) and self._ways.current is not None:
            self._leave_way(event.code, event.detail)

    def _leave_way(self, code: str, detail: str) -> None:
        self._ways.failed(code, detail, release=self.target.release if self.target else "")
        self.stop()

    def on_block(self, block: Block, *, broadcast: bool = False) -> None:
        """A block arrived over MQTT."""
        fetch = self.fetch
        if fetch is not None:
            self._take(lambda: fetch.on_block(block, broadcast=broadcast))

    def on_https(self, block: Block) -> None:
        """A block arrived over HTTPS."""
        fetch = self.fetch
        if fetch is not None:
            self._take(lambda: fetch.on_https(block))

    def https_failed(self, event: BlocksFailed) -> None:
        """A request over HTTPS came to nothing."""
        if self.fetch is not None:
            self.fetch.https_failed(event.request, event.detail)

    def _take(self, take: Callable[[], None]) -> None:
        try:
            take()
        except TransferError as error:
            self._give_up(error)
            return
        if self.fetch is not None and self.fetch.reportable():
            report(
                self._ctx,
                self._mover.record,
                progress=self.fetch.progress,
                figures=self.fetch.figures(),
            )

    def on_refusal(self, refusal: Refusal) -> None:
        """The cloud refused a request."""
        if self.fetch is None:
            return
        try:
            self.fetch.on_refusal(refusal)
        except TransferError as error:
            self._give_up(error)

    def on_reconnect(self) -> None:
        """The link was cut."""
        self._retry_at = 0.0
        if self.fetch is not None:
            self.fetch.on_reconnect()

    def _give_up(self, error: TransferError) -> None:
        if self._ways.current is not None:
            self._leave_way(error.code, str(error))
            return
        self.stop()
        self._mover.disprove(error.code, str(error))

    def postpone(self, code: str, detail: str, *, retry_s: float = 0.0) -> None:
        """Try again later, after `retry_s` or, where that is 0, after a pause that grows."""
        if self._mover.state not in _WAITS:
            return
        self.stop()
        self._retry_at = self._ctx.now + (retry_s or self._backoff.next_s())
        record = self._mover.record
        if record.state is State.FETCHING:
            self._mover.move(Trigger.POSTPONED, error_code=code, detail=detail)
        else:
            self._wait_for(code, detail)

    # --- staging ---------------------------------------------------------------------------------

    def _stage(self, candidate: SlotContent, target: Target, slot: str, *, fetched: bool) -> None:
        previous = self._mover.record.previous
        if fetched:
            self.found.pop(slot, None)
            if previous is not None and previous.slot == slot:
                self._mover.save(previous=None)
        self._asked_until, self._asked_slot = self._ctx.now + ASK_TIMEOUT_S, slot
        self._ctx.do(
            Stage(
                model=self._mover.record.model,
                sha256=candidate.sha256,
                length_bytes=candidate.length_bytes,
                slot=slot,
                attested_by=target.attested_by,
                fetched=fetched,
            )
        )

    def staged(self, event: Staged) -> None:
        """The bytes are in their slot and their digest holds."""
        candidate, target, slot = self._mover.record.candidate, self.target, self._asked_slot
        if not self._expects(event.sha256) or candidate is None or target is None or not slot:
            return
        figures = self.fetch.figures() | self._ways.figures(target) if self.fetch else {}
        self.stop()
        self.found[slot] = event.sha256
        found = (event.manifest_model, event.manifest_runtime)
        if found != (target.model, target.runtime):
            self._mover.end_refused(
                ContentError.code,
                f"expected an artifact of {target.model} for {target.runtime}, "
                f"found one of {found[0]} for {found[1]}; it must be released again",
            )
            return
        kept = msgspec.structs.replace(candidate, slot=slot, builds=event.builds)
        self._mover.move(Trigger.STORED, figures=figures, candidate=kept, error_code="", detail="")

    def stage_failed(self, event: StageFailed) -> None:
        """What was fetched is not what was signed, nobody vouches for it, or the disk failed."""
        if not self._expects(event.sha256) or not self._asked_slot:
            return
        if event.refused:
            self.stop()
            self._mover.end_refused(event.code, event.detail)
            return
        self.found.pop(self._asked_slot, None)
        self.stop()
        if self._mover.state is not State.FETCHING:
            return
        self._stage_failures += 1
        if self._stage_failures >= STAGE_ATTEMPTS:
            self._mover.disprove(event.code, event.detail)
        else:
            self.postpone(event.code, event.detail)

    def _expects(self, sha256: str) -> bool:
        record = self._mover.record
        return (
            record.state in _WAITS
            and record.candidate is not None
            and record.candidate.sha256 == sha256
        )
