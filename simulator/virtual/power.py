"""The power fault: a device loses power at any moment, between any two commands, and comes back."""

from __future__ import annotations

import random
from dataclasses import dataclass

from simulator.virtual.device import BOOT_S, Device
from simulator.virtual.schedule import Schedule


@dataclass(frozen=True)
class PowerFault:
    """How bad the power is.

    Attributes:
        cut_every_s: mean time between two cuts of one device.
        off_s: longest time without power.
        busy: share of cuts that wait until the device is doing something, and hit the middle of it.
    """

    cut_every_s: float = 600.0
    off_s: float = 300.0
    busy: float = 0.7


@dataclass
class Power:
    """Cuts power and brings it back.

    Attributes:
        fault: None while the power is good.
        cuts: what the fault has done.
    """

    schedule: Schedule
    rng: random.Random
    fault: PowerFault | None = None
    cuts: int = 0

    def add(self, device: Device) -> None:
        """A new device; it boots soon."""
        self.schedule.after(self.rng.uniform(*BOOT_S), device.boot)
        self._plan(device)

    def heal(self, devices: list[Device]) -> None:
        """The fault is over; everything has power."""
        self.fault = None
        for device in devices:
            device.cut_in = None
            self.schedule.after(self.rng.uniform(*BOOT_S), device.boot)

    def _plan(self, device: Device) -> None:
        if self.fault is None:
            return
        self.schedule.after(
            self.rng.expovariate(1 / self.fault.cut_every_s), lambda: self._cut(device)
        )

    def _cut(self, device: Device) -> None:
        if self.fault is None:
            return
        if not device.powered:
            self._plan(device)
            return
        self.cuts += 1
        if self.rng.random() < self.fault.busy:
            device.cut_in = self.rng.randrange(0, 40)
        else:
            device.cut_power()
        self._watch(device)

    def _watch(self, device: Device) -> None:
        """Bring power back some time after it has gone."""
        if self.fault is None:
            return
        if device.powered:
            self.schedule.after(1.0, lambda: self._watch(device))
            return
        off_s = self.rng.uniform(1.0, self.fault.off_s)
        self.schedule.after(off_s, device.boot)
        self.schedule.after(off_s, lambda: self._plan(device))
