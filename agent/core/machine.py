"""The update machine of one model: what is assigned against what stands, and who does what is next.

Rules:
- `work` looks at where things stand and does what is next; it may be called at any time, so that a lost
  answer, a failed disk or a restart needs no path of its own.
- A digest that is run comes from the record or the signed target, and its slot was hashed since boot.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.core.acquire import Acquisition
from agent.core.building import Building
from agent.core.commands import SaveModel
from agent.core.context import Context
from agent.core.events import Built, SelfTested
from agent.core.mover import Mover
from agent.core.records import ModelRecord, SlotContent
from agent.core.reporting import report
from agent.core.service import Phase, Running, Service
from agent.core.states import HEAVY, LIGHT, SETTLED, TERMINAL, State, Trigger
from agent.core.trial import Trial
from agent.errors import EngineMissingError, SupersededError
from agent.serving.port import Figures
from fleet.artifact.manifest import Feature
from fleet.wire.messages import EventLevel
from ota.verify.trust import Target


class Machine:
    """One model's update.

    Args:
        ctx: the core's surroundings.
        record: as it was persisted, or new.
        service: the model's workers.
        found: sha256 of what each slot holds, hashed at boot.
        runtimes: names of the runtimes that this device may use.
    """

    def __init__(
        self,
        ctx: Context,
        record: ModelRecord,
        service: Service,
        *,
        found: dict[str, str],
        runtimes: Callable[[], set[str]],
    ) -> None:
        self._ctx = ctx
        self._mover = Mover(ctx, record)
        self._known = False
        self._engines: dict[str, str] = {}
        self._counter = 0
        self.service = service
        self.acquisition = Acquisition(ctx, self._mover, found=found, runtimes=runtimes)
        self.building = Building(ctx, self._mover)
        self.trial = Trial(ctx, self._mover, service, self.acquisition, self.building)

    @property
    def record(self) -> ModelRecord:
        """Where the update stands."""
        return self._mover.record

    @property
    def heavy(self) -> bool:
        """Whether this machine holds the device-wide lock."""
        return self.record.state in HEAVY

    def deadline(self) -> float | None:
        """When `work` has something to do although nothing happened."""
        rooms = (self.acquisition, self.building, self.trial, self.service)
        times = [due for room in rooms if (due := room.deadline()) is not None]
        return min(times) if times else None

    # --- boot and assignment ---------------------------------------------------------------------

    def boot(self, engines: dict[str, str]) -> None:
        """Take up what was under way when the daemon ended.

        Args:
            engines: the engines of this device's own making that fit it, by the artifact's digest.
        """
        self._engines = dict(engines)
        self._check_slots()
        self._check_engines()
        if self.heavy and self.record.state is not State.ROLLING_BACK:
            self._mover.move(Trigger.REBOOTED)
        candidate = self.record.candidate
        if self.record.state is State.STAGED and (
            candidate is None or self.acquisition.found.get(candidate.slot) != candidate.sha256
        ):
            self._mover.move(Trigger.POSTPONED)
        if self.record.state in TERMINAL:
            report(self._ctx, self.record, figures=self.record.figures)

    def _check_slots(self) -> None:
        active, previous = self.record.active, self.record.previous
        found = self.acquisition.found
        if previous is not None and found.get(previous.slot) != previous.sha256:
            previous = None
        if active is not None and found.get(active.slot) != active.sha256:
            self._ctx.event(
                "slot.damaged",
                f"expected {active.sha256[:12]} in slot {active.slot}, found "
                f"{found.get(active.slot, 'nothing')[:12]}; "
                f"{'the release before it' if previous else 'nothing'} answers until it is there again",
                level=EventLevel.ERROR,
                model=self.record.model,
                release=active.release,
            )
            active, previous = previous, None
        if (active, previous) != (self.record.active, self.record.previous):
            self._mover.save(active=active, previous=previous)

    def _check_engines(self) -> None:
        """Have engines built anew that are gone, or that the device no longer runs."""

        def fits(content: SlotContent | None) -> bool:
            return (
                content is None
                or not content.engine
                or self._engines.get(content.sha256) == content.engine
            )

        record = self.record
        if not fits(record.candidate) and record.candidate is not None:
            self._mover.save(candidate=msgspec.structs.replace(record.candidate, engine=""))
        previous = record.previous if fits(record.previous) else None
        active = record.active
        if fits(active) or active is None:
            if previous != record.previous:
                self._mover.save(previous=previous)
            return
        self._ctx.event(
            "engine.outdated",
            f"expected engine {active.engine[:12]} in this device's cache, found none that fits its "
            f"TensorRT, driver and system; {'the release before it' if previous else 'nothing'} answers "
            "until it is built anew",
            level=EventLevel.WARNING,
            model=record.model,
            release=active.release,
        )
        if record.state not in TERMINAL:  # the update under way goes on; what it replaces is gone
            self._mover.save(active=previous, previous=None)
            return
        self._mover.move(
            Trigger.OUTDATED,
            stores=0,
            candidate=msgspec.structs.replace(active, engine=""),
            active=previous,
            previous=None,
            error_code="",
            detail="its engine is built anew",
        )

    def damaged(self, content: SlotContent) -> None:
        """A worker found other bytes in a slot than were verified."""
        if self.acquisition.found.get(content.slot) == content.sha256:
            self.acquisition.found.pop(content.slot)
            self._check_slots()

    def desire(self, target: Target | None, counter: int) -> None:
        """What the accepted assignment says of this model."""
        self._known, self._counter = True, counter
        self.acquisition.desire(target)

    def resume(self) -> None:
        """Saving failed a while ago: save, and ask again for what may never have been asked."""
        self.acquisition.stop()
        self._ctx.do(SaveModel(record=self.record))

    # --- work ------------------------------------------------------------------------------------

    def work(self, *, lock_free: bool) -> None:
        """Do what is next.

        Args:
            lock_free: whether no other model holds the device-wide lock.
        """
        if self._known:
            self._reconcile()
        state = self.record.state
        self.service.keep(self.record.active, start=state is not State.PROBATION)
        if state in {State.WAITING, State.FETCHING}:
            self.acquisition.work()
        else:
            self.trial.work(lock_free=lock_free and self._known)
        self.building.work()
        self.service.tick()

    def _reconcile(self) -> None:
        record, target = self.record, self.acquisition.target
        if record.state is State.ROLLING_BACK:
            return
        if target is None:
            self._withdraw()
            return
        active = record.active is not None and record.active.sha256 == target.sha256
        if record.state in SETTLED:
            self._reconcile_settled(target, active=active)
        else:
            self._reconcile_under_way(target, active=active)

    def _reconcile_settled(self, target: Target, *, active: bool) -> None:
        record, state = self.record, self.record.state
        ended = record.counter == self._counter and state in TERMINAL
        if active and not (ended and state is State.COMMITTED):
            self._mover.move(Trigger.CONFIRMED, counter=self._counter)
        elif not active and (not ended or state is State.COMMITTED):
            self._assign(target)

    def _reconcile_under_way(self, target: Target, *, active: bool) -> None:
        record, counter = self.record, self._counter
        if record.state in LIGHT and active:
            self.acquisition.stop()
            self._mover.move(Trigger.CONFIRMED, counter=counter)
        elif record.candidate is not None and (
            (record.candidate.sha256, record.candidate.trial) == (target.sha256, target.candidate)
        ):
            if record.counter != counter:
                self._mover.save(counter=counter)
        elif record.settled_counter == counter:
            return  # this assignment has ended; what was active is being built anew
        elif record.state in LIGHT:
            self._assign(target)
        else:
            self.trial.disprove(
                SupersededError.code, f"assignment {counter} names {target.release} instead"
            )

    def _withdraw(self) -> None:
        state = self.record.state
        if state in TERMINAL or state in LIGHT:
            self.acquisition.stop()
            self._mover.move(Trigger.WITHDRAWN, counter=self._counter, active=None, previous=None)
        elif state in HEAVY:
            self.trial.disprove(
                SupersededError.code, f"assignment {self._counter} withdraws the model"
            )

    def _assign(self, target: Target) -> None:
        self.acquisition.begin()
        self.building.fresh()
        content = SlotContent(
            release=target.release,
            sha256=target.sha256,
            length_bytes=target.length_bytes,
            runtime=target.runtime,
            activate_before=target.activate_before,
            trial=target.candidate,
        )
        self._mover.move(
            Trigger.ASSIGNED,
            counter=self._counter,
            stores=0,
            candidate=content,
            error_code="",
            detail="",
        )

    def built(self, event: Built) -> None:
        """An engine was built."""
        self._engines[event.sha256] = event.engine
        self.trial.built(event)

    # --- workers ---------------------------------------------------------------------------------

    def worker_ready(self, running: Running, features: list[Feature]) -> None:
        """A worker has loaded its artifact."""
        self.service.loaded(running, features)
        if running is self.service.candidate:
            self.trial.loaded(running)

    def worker_tested(self, running: Running, event: SelfTested) -> None:
        """A worker has run the golden vectors."""
        if running is self.service.candidate:
            self.trial.tested(running, event)

    def worker_promoted(self, running: Running, url: str) -> None:
        """A worker answers."""
        if running.phase is not Phase.PROMOTING:
            return
        self.service.promoted(running, url)
        self._mover.url = url
        if running is self.service.candidate:
            self.trial.promoted()
        elif running is self.service.incumbent:
            self.trial.incumbent_promoted(running)

    def worker_counted(self, running: Running, figures: Figures) -> None:
        """A worker handed its figures over."""
        if running is self.service.candidate:
            self.trial.counted(figures.inferences, figures.errors)
        self.service.took(running, figures)

    def worker_lost(self, running: Running, code: str, detail: str) -> None:
        """A worker failed or died."""
        was_candidate = running is self.service.candidate
        content = running.content
        self.service.lost(running, code, detail)
        if was_candidate:
            self.trial.disprove(code, detail)
        if code.startswith("ota."):
            self.damaged(content)
        elif code == EngineMissingError.code:
            self._engines.pop(content.sha256, None)
            self._check_engines()

    def worker_exited(self, running: Running, reason: str) -> None:
        """A worker's process is gone."""
        if running.phase is not Phase.ENDING:
            self.worker_lost(running, "serving.worker_lost", reason)
        self.service.exited(running)
