"""The daemon's decision maker: events in, commands out. No clock, no disk, no network of its own.

Rules:
- `handle` returns what to do, in order; see `agent.core.commands` for what the order means.
- `now` is monotonic, in seconds. The wall clock is told by `Booted` and `WallClock`, and only people
  read it; what decides is trusted time.
- Heavy states are under one lock: one model at a time has two versions in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.core import events as ev
from agent.core.backoff import Backoff
from agent.core.birth import birth, permitted
from agent.core.commands import Append, Command, Discard, SaveDevice, SaveTrust, Sense
from agent.core.context import Context, Settings
from agent.core.downlink import Downlink
from agent.core.exports import Exports
from agent.core.machine import Machine
from agent.core.notices import Notices
from agent.core.records import DeviceRecord, ModelRecord
from agent.core.renewal import Renewal
from agent.core.service import Running, Service
from agent.core.states import LIGHT
from agent.core.status import AgentStatus
from agent.core.storage import Storage
from agent.core.telemetry import DriftWatch
from agent.core.trust import Trust
from agent.core.uplink import Uplink
from fleet.wire.envelope import Signer
from fleet.wire.messages import EventLevel, RuntimeInfo

_ROUNDS = 8


class Core:
    """One device.

    Args:
        settings: who it is and how it was configured.
        signer: signs with the device's key.
        boot_epoch: random, new at each start.
        ids: makes an id that was never used before, at each call.
        utc_offset_s: what the device's local time is ahead of UTC at a Unix time, in seconds.
    """

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        *,
        boot_epoch: str,
        ids: Callable[[], str],
        utc_offset_s: Callable[[float], float] = lambda _: 0.0,
    ) -> None:
        self.ctx = Context(
            settings, signer, boot_epoch=boot_epoch, ids=ids, utc_offset_s=utc_offset_s
        )
        self.uplink = Uplink(self.ctx)
        self.notices = Notices(self.ctx)
        self.machines: dict[str, Machine] = {}
        self.device = DeviceRecord()
        self.runtimes: list[RuntimeInfo] = []
        self.figures: dict[str, float] = {}
        self.link_reason = ""
        self._trust: Trust | None = None
        self._found: dict[str, dict[str, str]] = {}
        self._drift = DriftWatch()
        self._downlink = Downlink(self)
        self.exports = Exports(self)
        self.renewal = Renewal(self)
        self._storage = Storage(self)
        self._sense_at = 0.0
        self._birth_due = 0.0
        self._birth_pause = Backoff(5.0, 120.0)
        self._stopping = False
        self._handlers: dict[type[ev.Event], Callable[[Any], None]] = {
            ev.Booted: self._booted,
            ev.WallClock: lambda e: self.ctx.set_wall(e.wall),
            ev.Tick: lambda _: None,
            ev.Connected: self._connected,
            ev.Disconnected: self._disconnected,
            ev.Received: self._downlink.received,
            ev.StoreFailed: self._storage.failed,
            ev.Prepared: lambda e: self.machine(e.model).acquisition.prepared(e),
            ev.PrepareFailed: lambda e: self.machine(e.model).acquisition.prepare_failed(e),
            ev.BlockGot: lambda e: self.machine(e.model).acquisition.on_https(e.block),
            ev.BlocksFailed: lambda e: self.machine(e.model).acquisition.https_failed(e),
            ev.Rebuilt: lambda e: self.machine(e.model).acquisition.rebuilt(e),
            ev.RebuildFailed: lambda e: self.machine(e.model).acquisition.rebuild_failed(e),
            ev.Staged: lambda e: self.machine(e.model).acquisition.staged(e),
            ev.StageFailed: lambda e: self.machine(e.model).acquisition.stage_failed(e),
            ev.BuildProgress: lambda e: self.machine(e.model).building.on_progress(e),
            ev.Built: lambda e: self.machine(e.model).built(e),
            ev.BuildFailed: lambda e: self.machine(e.model).building.failed(e),
            ev.WorkerReady: self._on_worker(lambda m, r, e: m.worker_ready(r, e.features)),
            ev.WorkerFailed: self._on_worker(lambda m, r, e: m.worker_lost(r, e.code, e.detail)),
            ev.SelfTested: self._on_worker(lambda m, r, e: m.worker_tested(r, e)),
            ev.Promoted: self._on_worker(lambda m, r, e: m.worker_promoted(r, e.url)),
            ev.FiguresTaken: self._on_worker(lambda m, r, e: m.worker_counted(r, e.figures)),
            ev.WorkerExited: self._on_worker(lambda m, r, e: m.worker_exited(r, e.reason)),
            ev.EngineReady: self.exports.ready,
            ev.EngineLacking: self.exports.lacking,
            ev.EngineRead: self.exports.read,
            ev.CertificateTaken: self.renewal.taken,
            ev.RenewalFailed: self.renewal.failed,
            ev.RowsLoaded: self.uplink.loaded,
            ev.Carried: lambda e: self.uplink.carried(e.keys),
            ev.BufferTrimmed: self.notices.trimmed,
            ev.Sensed: self._sensed,
            ev.Stopping: self._stop,
        }

    @property
    def trust(self) -> Trust:
        """Whom the device believes; there is one from `Booted` on."""
        if self._trust is None:
            raise RuntimeError("Booted is the first event")
        return self._trust

    @property
    def stopped(self) -> bool:
        """Whether the daemon may end: it was asked to, and no worker is left."""
        return self._stopping and all(m.service.quiet for m in self.machines.values())

    def handle(self, event: ev.Event, now: float) -> list[Command]:
        """Take one event.

        Args:
            event: what happened.
            now: monotonic time, seconds; never smaller than at the call before.

        Returns:
            What to do, in this order.
        """
        self.ctx.now = now
        self.ctx.out = []
        self._handlers[type(event)](event)
        if not self._stopping:
            self._work()
        appended = sum(isinstance(command, Append) for command in self.ctx.out)
        if appended:
            self.uplink.appended(appended)
        return self.ctx.out

    def deadline(self) -> float | None:
        """Monotonic time at which a `Tick` is due; None when only events matter."""
        times = [self._sense_at] if self._trust is not None and not self._stopping else []
        if self._birth_unanswered():
            times.append(self._birth_due)
        if (due := self._storage.deadline()) is not None:
            times.append(due)
        if (due := self.renewal.deadline()) is not None and not self._stopping:
            times.append(due)
        if (due := self.uplink.deadline()) is not None:
            times.append(due)
        times += [due for m in self.machines.values() if (due := m.deadline()) is not None]
        return min(times) if times else None

    def status(self) -> AgentStatus:
        """What a person beside the device wants to know."""
        return self.notices.status(self)

    def machine(self, model: str) -> Machine:
        """The model's machine, made when it is not there yet."""
        if model not in self.machines:
            self._add(ModelRecord(model=model))
        return self.machines[model]

    def usable_runtimes(self) -> set[str]:
        """Names of the runtimes that are installed and allowed."""
        return {r.name for r in self.runtimes if r.available}

    def say_birth(self) -> None:
        """Tell the cloud that this device is here, until it answers with what is desired."""
        birth(self)
        self._birth_due = self.ctx.now + self._birth_pause.next_s()

    def apply_assignment(self) -> None:
        """Tell each machine what the accepted assignment says of it."""
        acceptance = self.trust.acceptance
        if not acceptance.counter:
            return
        targets = {target.model: target for target in acceptance.targets}
        for model in sorted({*targets, *self.machines}):
            self.machine(model).desire(targets.get(model), acceptance.counter)
        self._work()
        self._discard()

    # --- what happens ----------------------------------------------------------------------------

    def _booted(self, event: ev.Booted) -> None:
        self.ctx.set_wall(event.wall)
        self._trust = Trust(self.ctx, event.trust, enrolled=event.enrolled)
        self.renewal.booted(event.certificate)
        self.runtimes = permitted(event.runtimes, self.ctx.settings.runtimes)
        self._found = event.slots
        self.device = DeviceRecord(
            command_counter=event.device.command_counter, starts=event.device.starts + 1
        )
        self.ctx.do(SaveDevice(record=self.device))
        for record in event.models:
            self._add(record)
            self.machines[record.model].boot(event.engines)
        for code, text in event.notes:
            self.ctx.event(code, text, level=EventLevel.WARNING)
        if self.trust.damage:
            self.ctx.event("trust.damaged", self.trust.damage, level=EventLevel.ERROR)
            self.ctx.do(SaveTrust(store=self.trust.store))
        self.apply_assignment()

    def _add(self, record: ModelRecord) -> None:
        self.machines[record.model] = Machine(
            self.ctx,
            record,
            Service(self.ctx, record.model, self._drift),
            found=self._found.get(record.model, {}),
            runtimes=self.usable_runtimes,
        )

    def _discard(self) -> None:
        keep: set[str] = set()
        for machine in self.machines.values():
            record, target = machine.record, machine.acquisition.target
            if record.candidate and record.state in LIGHT:
                keep.add(record.candidate.sha256)
                keep |= {way.sha256 for way in target.ways} if target else set()
        self.ctx.do(Discard(keep=sorted(keep)))

    def _connected(self, _: ev.Connected) -> None:
        self.ctx.connected = True
        self.ctx.log("info", "link.up", "")
        self.renewal.connected()
        for machine in self.machines.values():
            machine.acquisition.on_reconnect()
        self._birth_pause.reset()
        self.say_birth()
        self.uplink.connected()

    def _disconnected(self, event: ev.Disconnected) -> None:
        self.ctx.connected = False
        self.link_reason = event.reason
        self.ctx.log("warning", "link.down", event.reason)
        self.renewal.disconnected(event)

    def _sensed(self, event: ev.Sensed) -> None:
        self.figures = event.figures
        self.notices.health(event.figures, waiting=self.uplink.waiting)

    def _stop(self, _: ev.Stopping) -> None:
        self._stopping = True
        for machine in self.machines.values():
            machine.building.cancel()
            machine.service.end_all()

    def _on_worker(self, act: Callable[[Machine, Running, Any], None]) -> Callable[[Any], None]:
        def handler(event: Any) -> None:
            for machine in self.machines.values():
                running = machine.service.find(event.worker)
                if running is not None:
                    act(machine, running, event)
                    return

        return handler

    # --- work ------------------------------------------------------------------------------------

    def _birth_unanswered(self) -> bool:
        return self.ctx.connected and self._trust is not None and self.trust.unanswered

    def _work(self) -> None:
        self._storage.work()
        if self._birth_unanswered() and self.ctx.now >= self._birth_due:
            self.say_birth()
        self.renewal.work()
        self.uplink.pump()
        if self._trust is not None and self.ctx.now >= self._sense_at:
            self._sense_at = self.ctx.now + self.ctx.settings.health_s
            self.ctx.do(Sense())
        for _ in range(_ROUNDS):
            before = [machine.record for machine in self.machines.values()]
            for machine in self.machines.values():
                others = (m for m in self.machines.values() if m is not machine)
                machine.work(lock_free=not any(other.heavy for other in others))
            if before == [machine.record for machine in self.machines.values()]:
                return
