"""A simulated world: devices, network, power and cloud on one heap of events, from one seed.

Rules:
- The same spec gives the same run, step by step.
- First the faults rage, then everything is healed and must converge: every device runs what it is
  assigned (or has said why not), answers, and owes the registry nothing.
- The first violation ends the run.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from agent.core import commands as cmd
from agent.core.context import Settings
from simulator.errors import ViolationError
from simulator.virtual import device as devices
from simulator.virtual.backend import TENANT, Backend, LogWatch
from simulator.virtual.convergence import unconverged
from simulator.virtual.device import Birthright, Device
from simulator.virtual.invariants import Invariants
from simulator.virtual.network import Network, NetworkFault
from simulator.virtual.operator import CLASSES, Operator
from simulator.virtual.power import Power, PowerFault
from simulator.virtual.schedule import Schedule

EPOCH = 1_800_000_000.0
FAULTS = ("network", "power")
HEAL_S = 7200.0
LOOK_S = 10.0
REGISTRY_LOOK_S = 60.0
TRACE_LINES = 2000
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  the name is made by mkdtemp; memory makes syncing free
_GATEWAY = "cloud.gateway"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate.

    Attributes:
        faults: some of `FAULTS`.
        hours: virtual time under faults; healing comes on top.
    """

    seed: int
    devices: int = 20
    faults: tuple[str, ...] = FAULTS
    hours: float = 1.0

    def command(self, name: str = "replay") -> str:
        """The command that runs this very world again."""
        faults = ",".join(self.faults) or "none"
        return (
            f"outrider sim {name} --seed {self.seed} --devices {self.devices} "
            f"--faults {faults} --hours {self.hours:g}"
        )


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run.

    Attributes:
        violation: what must never happen and did; empty when all held.
        converged_s: virtual time that healing took; negative when it did not come to that.
        steps: events on the heap.
        figures: what happened, counted.
        digest: of the trace: equal for equal runs.
    """

    spec: Spec
    violation: str
    at_s: float
    converged_s: float
    steps: int
    checks: int
    figures: dict[str, int]
    digest: str
    trace: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing was violated."""
        return not self.violation


@dataclass
class Trace:
    """What happened, in order: the last lines, and a digest of all."""

    schedule: Schedule
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=TRACE_LINES))
    counts: Counter[str] = field(default_factory=Counter)
    crc: int = 0

    def add(self, device: str, code: str, text: str) -> None:
        """One thing that happened."""
        from zlib import crc32

        line = f"{self.schedule.now:10.3f} {device:8} {code} {text}".rstrip()
        self.lines.append(line)
        self.counts[code] += 1
        self.crc = crc32(line.encode(), self.crc)


class World:
    """One run. Use it once, and close it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        where = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix="outrider-sim-", dir=where))
        self.schedule = Schedule()
        self.trace = Trace(self.schedule)
        self.backend = Backend(
            self._folder / "cloud", self.schedule, self._rng("cloud"), epoch=EPOCH
        )
        self.invariants = Invariants(self.backend.context)
        fault = NetworkFault() if "network" in spec.faults else None
        self.network = Network(self.schedule, self._rng("network"), self._receive, fault)
        self.power = Power(
            self.schedule, self._rng("power"), PowerFault() if "power" in spec.faults else None
        )
        self.devices = [self._device(f"dev-{i:03}") for i in range(spec.devices)]
        self._by_name = {device.name: device for device in self.devices}
        troubles = {device.name: device.born.trouble for device in self.devices}
        interval_s = max(900.0, spec.hours * 3600.0 / 4)
        self.operator = Operator(
            self.backend, self.schedule, self._rng("operator"), troubles, interval_s
        )
        self._log_watch = LogWatch()
        self._seen = 0

    def close(self) -> None:
        """Remove what the run left."""
        for device in self.devices:
            device.cut_power()
        self.backend.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self) -> Outcome:
        """Let it happen."""
        logger = logging.getLogger(_GATEWAY)
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(self._log_watch)
        violation, healed_s = "", -1.0
        try:
            self._start()
            self.schedule.run(self.spec.hours * 3600.0)
            healed_s = self._heal()
        except ViolationError as error:
            violation = str(error)
        except Exception as error:  # noqa: BLE001  whatever the product raises here is a finding, with its seed
            violation = f"raised {type(error).__name__}: {error}"
            self.trace.add("-", "raised", _where(error))
        finally:
            logger.removeHandler(self._log_watch)
            logger.propagate = propagate
        return self._outcome(violation, healed_s)

    # --- the run ----------------------------------------------------------------------------------

    def _start(self) -> None:
        self.backend.start(self.network)
        for device in self.devices:
            self.network.add(device)
            self.power.add(device)
        self.operator.start()
        self.schedule.every(REGISTRY_LOOK_S, self._look_at_registry)

    def _heal(self) -> float:
        self.trace.add("-", "heal", "the faults are over")
        self.network.heal()
        self.power.heal(self.devices)
        self.operator.quiet = True
        began = self.schedule.now
        why = "nothing was looked at"
        while self.schedule.now < began + HEAL_S:
            self.schedule.run(self.schedule.now + LOOK_S)
            why = self._unconverged()
            if not why:
                self._look_at_registry()
                return self.schedule.now - began
        raise ViolationError(f"nothing converged within {HEAL_S:.0f} s of healing: {why}")

    def _unconverged(self) -> str:
        if not self.operator.settled():
            return "a rollout is still under way"
        return next(filter(None, (unconverged(self.backend, d) for d in self.devices)), "")

    def _look_at_registry(self) -> None:
        self._raise_logged()
        for device in self.devices:
            self.invariants.registry(device)

    def _raise_logged(self) -> None:
        if self._log_watch.first is not None:
            raise self._log_watch.first

    def _receive(self, device: str, kind: str, payload: bytes) -> None:
        self.backend.receive(device, kind, payload)
        if kind in {"birth", "reported"}:
            self.invariants.reported(self._by_name[device])

    def _before(self, device: Device, command: cmd.Command) -> None:
        self._note_signed()
        self.invariants.before(device, command)

    def _after(self, device: Device) -> None:
        self._note_signed()
        self.invariants.after(device)

    def _note_signed(self) -> None:
        while self._seen < len(self.backend.assigned):
            self.invariants.signed(self.backend.assigned[self._seen])
            self._seen += 1

    # --- making -----------------------------------------------------------------------------------

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.spec.seed}/{name}")  # noqa: S311  the world follows from its seed

    def _device(self, name: str) -> Device:
        rng = self._rng(name)
        key = ec.derive_private_key(rng.getrandbits(250) + 1, ec.SECP256R1())
        hardware_class = rng.choice(CLASSES)
        born = Birthright(
            settings=Settings(
                tenant=TENANT,
                device=name,
                hardware_class=hardware_class,
                agent_version="sim",
                probation_s=30.0,
                window_s=60.0,
                health_s=600.0,
            ),
            key=key,
            enrolment=self.backend.enrol(name, key, hardware_class),
            folder=self._folder / name,
            clock_error_s=rng.choice((0.0, 0.0, 3.0, -EPOCH)),
            buffer_bytes=rng.choice((16 << 10, 8 << 20)),
            rate=rng.choice((0.0, 0.2, 2.0)),
            trouble={},
        )
        world = devices.World(
            self.schedule, self.network, EPOCH, self._before, self._after, self.trace.add
        )
        return Device(born, world, rng)

    def _outcome(self, violation: str, healed_s: float) -> Outcome:
        counts = self.trace.counts
        figures = {
            "boots": sum(device.boots for device in self.devices),
            "power_cuts": self.power.cuts,
            "blocks_hurt": sum(device.hurt_blocks for device in self.devices),
            "partitions": self.network.cuts,
            "messages_lost": self.network.lost,
            "messages_doubled": self.network.doubled,
            "windows_merged": sum(device.merged for device in self.devices),
            "rows_evicted": sum(device.evicted for device in self.devices),
            "rollouts": self.operator.rollouts_n,
            "rollbacks_ordered": self.operator.orders.count("rollback"),
            **{
                state: counts[f"update.{state}"]
                for state in ("building", "committed", "failed", "refused")
            },
        }
        return Outcome(
            spec=self.spec,
            violation=violation,
            at_s=round(self.schedule.now, 3),
            converged_s=round(healed_s, 3),
            steps=self.schedule.steps,
            checks=self.invariants.checks,
            figures=figures,
            digest=f"{self.trace.crc:08x}",
            trace=list(self.trace.lines),
        )


def _where(error: BaseException) -> str:
    """The innermost place of ours that raised."""
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def run(spec: Spec) -> Outcome:
    """Simulate one world."""
    world = World(spec)
    try:
        return world.run()
    finally:
        world.close()
