"""What must hold after each step of a simulated world, whatever the network and the power do.

On each device:
- only bytes run that the cloud has signed for this very device, and that were verified when loaded;
- one worker answers for a model, two only while one hands over to the other; at most one model is in a
  heavy state;
- what is committed stays: a device that has had an active model has one until the assignment withdraws it;
- the durable assignment counter and the durable floor of trusted time never fall, over power cuts too;
- a terminal report of an assignment is never followed by another state of the same assignment.

Between devices and cloud:
- a row that a device forgets is committed in the registry;
- the registry's terminal state for an assignment never changes;
- no inference of a durable window is missing from the registry or counted twice (a buffer that says that
  it is full and has evicted rows may miss some, never count one twice).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from agent.core import commands as cmd
from cloud.context import Context
from fleet.registry.repositories import Devices, Telemetry, Trust
from fleet.telemetry.window import Window
from fleet.wire import codec
from fleet.wire.messages import Reported
from ota.verify.trust import TrustStore
from simulator.errors import ViolationError
from simulator.virtual.device import Device

HANDOVER_S = 5.0
TERMINAL = frozenset({"committed", "measured", "failed", "incompatible", "refused"})


@dataclass
class _Known:
    """What has been seen of one device so far."""

    signed: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)
    counter: int = 0
    time_floor: float = 0.0
    ended: dict[tuple[str, int], str] = field(default_factory=dict)
    inferences: int = 0
    overlaps: dict[str, float] = field(default_factory=dict)
    registry_ended: dict[tuple[str, int], str] = field(default_factory=dict)


@dataclass
class Invariants:
    """The checks; each raises `ViolationError`."""

    cloud: Context
    checks: int = 0
    _known: dict[str, _Known] = field(default_factory=lambda: defaultdict(_Known))

    def signed(self, device: str) -> None:
        """The cloud has signed an assignment for a device."""
        with self.cloud.read() as session:
            self._known[device].signed |= Trust(session).assigned_digests(device)

    # --- before a command -------------------------------------------------------------------------

    def before(self, device: Device, command: cmd.Command) -> None:
        """A device is about to carry a command out."""
        if isinstance(command, cmd.Append):
            self._append(device, command)
        elif isinstance(command, cmd.Forget):
            self._forget(device, command)
        elif isinstance(command, cmd.SaveTrust):
            self._save_trust(device, command.store)
        elif isinstance(command, cmd.StartWorker):
            self._require(
                command.sha256 in self._known[device.name].signed,
                device,
                f"starts {command.sha256[:12]}, which the cloud never assigned to it",
            )

    def _append(self, device: Device, command: cmd.Append) -> None:
        known = self._known[device.name]
        if command.kind == "telemetry":
            known.inferences += codec.from_msgpack(Window, command.payload).inferences
        elif command.kind == "reported":
            report = codec.from_json(Reported, command.payload)
            key = (report.model, report.assignment_counter)
            self._same_end(device, known.ended, key, report.state)

    def _forget(self, device: Device, command: cmd.Forget) -> None:
        with self.cloud.read() as session:
            telemetry = Telemetry(session)
            missing = [key for key in command.keys if not telemetry.has(device.name, *key)]
        self._require(
            not missing, device, f"forgets {missing[:3]}, which the cloud never committed"
        )

    def _save_trust(self, device: Device, store: TrustStore) -> None:
        known = self._known[device.name]
        self._require(
            store.counter >= known.counter and store.time_floor >= known.time_floor,
            device,
            f"persists counter {store.counter} and floor {store.time_floor:.0f} "
            f"after {known.counter} and {known.time_floor:.0f}",
        )
        known.counter, known.time_floor = store.counter, store.time_floor

    def _same_end(
        self, device: Device, ended: dict[tuple[str, int], str], key: tuple[str, int], state: str
    ) -> None:
        before = ended.get(key, "")
        self._require(
            not before or before == state,
            device,
            f"reports {state} for assignment {key[1]} of {key[0]}, which had ended as {before}",
        )
        if state in TERMINAL:
            ended[key] = state

    # --- after an event ---------------------------------------------------------------------------

    def after(self, device: Device) -> None:
        """A device has handled an event and carried its commands out."""
        self.checks += 1
        core, crew, known = device.core, device.crew, self._known[device.name]
        if core is None or crew is None:
            known.overlaps.clear()
            return
        for worker in crew.workers.values():
            if worker.loaded is not None:
                self._require(
                    worker.loaded.sha256 in known.signed,
                    device,
                    f"runs {worker.loaded.sha256[:12]}, which the cloud never assigned to it",
                )
        heavy = [model for model, machine in core.machines.items() if machine.heavy]
        self._require(len(heavy) <= 1, device, f"has {heavy} in heavy states at once")
        assigned = {target.model for target in core.trust.acceptance.targets}
        for model, machine in core.machines.items():
            self._one_answers(device, known, model, len(crew.serving(model)))
            if machine.record.active is not None:
                known.active.add(model)
            elif model in known.active:
                self._require(model not in assigned, device, f"has lost its active {model}")
                known.active.discard(model)

    def _one_answers(self, device: Device, known: _Known, model: str, serving: int) -> None:
        now = device.world.schedule.now
        since = known.overlaps.setdefault(model, now) if serving > 1 else now
        if serving <= 1:
            known.overlaps.pop(model, None)
        self._require(
            serving <= 2 and now - since <= HANDOVER_S,
            device,
            f"has had {serving} workers that answer for {model} for {now - since:.1f} s",
        )

    # --- in the registry --------------------------------------------------------------------------

    def reported(self, device: Device) -> None:
        """A message of a device has reached the registry."""
        ended = self._known[device.name].registry_ended
        with self.cloud.read() as session:
            rows = list(Devices(session).models([device.name]))
        for row in rows:
            key = (row.model, row.counter)
            if row.terminal or key in ended:
                self._same_end(device, ended, key, row.state)

    def registry(self, device: Device) -> None:
        """The registry's view of a device, looked at now and then."""
        known = self._known[device.name]
        self.reported(device)
        with self.cloud.read() as session:
            telemetry = Telemetry(session)
            totals = telemetry.totals(device.name)
            waiting = sum(
                window.inferences
                for window in device.waiting_windows()
                if not telemetry.has(device.name, window.boot_epoch, window.seq)
            )
        stored = sum(inferences for inferences, _ in totals.values())
        missing = known.inferences - stored - waiting
        self._require(
            missing == 0 or (missing > 0 and device.evicted > 0),
            device,
            f"closed windows with {known.inferences} inferences; the registry has {stored}, "
            f"{waiting} wait: {missing} are missing",
        )

    def _require(self, holds: bool, device: Device, what: str) -> None:
        if not holds:
            raise ViolationError(f"{device.name} {what}")
