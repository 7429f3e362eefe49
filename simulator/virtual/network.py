"""The network between devices and the cloud, with its fault: loss, duplication, delay, reordering, partition.

Rules:
- A message that is sent gets a fate at once: how often it arrives (0, 1, 2) and when. Those of one device
  and direction keep their order, except those that the fault makes slow or sends twice.
- A device that is cut off notices after its keep-alive; the cloud learns from the will, later or never.
- What comes for a device that is not connected then is lost: nothing leans on the broker's memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fleet.wire import codec
from fleet.wire.messages import Status
from simulator.virtual.schedule import Schedule


@dataclass(frozen=True)
class NetworkFault:
    """How bad the network is.

    Attributes:
        loss: share of messages that never arrive.
        duplication: share of messages that arrive twice.
        slow: share of messages that take up to `slow_s`, and so overtake each other.
        partition_every_s: mean time between two cuts of one device's link.
        partition_s: longest cut.
    """

    loss: float = 0.05
    duplication: float = 0.05
    slow: float = 0.15
    slow_s: float = 20.0
    partition_every_s: float = 500.0
    partition_s: float = 600.0


FAST_S = (0.005, 0.2)
KEEP_ALIVE_S = (5.0, 45.0)
WILL_S = 45.0
RECONNECT_S = (0.5, 10.0)


class Peer(Protocol):
    """A device as the network sees it."""

    @property
    def name(self) -> str:
        """Its id."""

    @property
    def powered(self) -> bool:
        """Whether it runs."""

    def on_connected(self) -> None:
        """The link stands."""

    def on_disconnected(self) -> None:
        """The link is gone."""

    def on_message(self, kind: str, payload: bytes) -> None:
        """A message arrived."""


@dataclass
class _Lane:
    """One direction of a link, and when its last message arrives."""

    last: float = 0.0


@dataclass
class _Link:
    peer: Peer
    up: _Lane = field(default_factory=_Lane)
    down: _Lane = field(default_factory=_Lane)
    cut: bool = False
    connected: bool = False
    session: int = 0
    heard: bool = False


@dataclass
class Network:
    """All links.

    Attributes:
        fault: None while the network is good.
        to_cloud: takes (device, kind, payload).
        lost, doubled, cuts: what the fault has done.
    """

    schedule: Schedule
    rng: random.Random
    to_cloud: Callable[[str, str, bytes], None]
    fault: NetworkFault | None = None
    lost: int = 0
    doubled: int = 0
    cuts: int = 0
    _links: dict[str, _Link] = field(default_factory=dict)

    def add(self, peer: Peer) -> None:
        """A new device; it connects when it is powered."""
        self._links[peer.name] = _Link(peer)
        self._plan_cut(self._links[peer.name])

    def connected(self, device: str) -> bool:
        """Whether the device's link stands."""
        return self._links[device].connected

    def heal(self) -> None:
        """The fault is over; every cable is plugged in again."""
        self.fault = None
        for link in self._links.values():
            link.cut = False
            self._plan_connect(link)

    # --- power ------------------------------------------------------------------------------------

    def powered_on(self, device: str) -> None:
        """The device's daemon has started."""
        self._plan_connect(self._links[device])

    def powered_off(self, device: str) -> None:
        """The device is gone from one moment to the next."""
        self._drop(self._links[device])

    # --- messages ---------------------------------------------------------------------------------

    def up(self, device: str, kind: str, payload: bytes) -> None:
        """A device publishes."""
        link = self._links[device]
        if not link.cut:
            self._send(link.up, lambda: self.to_cloud(device, kind, payload))

    def down(self, device: str, kind: str, payload: bytes, *, delay_s: float = 0.0) -> None:
        """The cloud publishes."""
        link = self._links[device]

        def arrive() -> None:
            if link.connected and not link.cut:
                link.peer.on_message(kind, payload)

        self._send(link.down, arrive, delay_s)

    def _send(self, lane: _Lane, arrive: Callable[[], None], delay_s: float = 0.0) -> None:
        copies = 1
        if self.fault is not None:
            draw = self.rng.random()
            if draw < self.fault.loss:
                copies, self.lost = 0, self.lost + 1
            elif draw < self.fault.loss + self.fault.duplication:
                copies, self.doubled = 2, self.doubled + 1
        now = self.schedule.now
        for copy in range(copies):
            at = now + delay_s + self.rng.uniform(*FAST_S)
            if self.fault is not None and (copy or self.rng.random() < self.fault.slow):
                at += self.rng.uniform(0.0, self.fault.slow_s)
            else:
                at = lane.last = max(at, lane.last)
            self.schedule.after(at - now, arrive)

    # --- connections ------------------------------------------------------------------------------

    def _plan_connect(self, link: _Link) -> None:
        session = link.session

        def connect() -> None:
            ready = link.peer.powered and not link.cut and not link.connected
            if not ready or link.session != session:
                return
            self._will(link)
            link.connected, link.heard = True, True
            link.session += 1
            self._presence(link, online=True)
            link.peer.on_connected()

        self.schedule.after(self.rng.uniform(*RECONNECT_S), connect)

    def _plan_cut(self, link: _Link) -> None:
        fault = self.fault
        if fault is None or fault.partition_every_s <= 0:
            return

        def cut() -> None:
            if self.fault is None:
                return
            self.cuts += 1
            link.cut = True
            session = link.session
            if link.connected:
                self.schedule.after(
                    self.rng.uniform(*KEEP_ALIVE_S), lambda: self._notice(link, session)
                )
            self.schedule.after(self.rng.uniform(1.0, fault.partition_s), mend)

        def mend() -> None:
            link.cut = False
            self._plan_connect(link)
            self._plan_cut(link)

        self.schedule.after(self.rng.expovariate(1 / fault.partition_every_s), cut)

    def _notice(self, link: _Link, session: int) -> None:
        """The keep-alive ran out; a cut shorter than that is noticed by nobody."""
        if not link.connected or link.session != session or not link.cut:
            return
        self._drop(link)
        link.peer.on_disconnected()

    def _drop(self, link: _Link) -> None:
        if not link.connected:
            return
        link.connected = False
        link.session += 1
        session = link.session
        self.schedule.after(WILL_S, lambda: self._will(link) if link.session == session else None)

    def _will(self, link: _Link) -> None:
        """The broker publishes the will of a connection that ended without a goodbye, once."""
        if link.heard:
            link.heard = False
            self._presence(link, online=False)

    def _presence(self, link: _Link, *, online: bool) -> None:
        status = codec.to_json(Status(device=link.peer.name, online=online))
        self._send(link.up, lambda: self.to_cloud(link.peer.name, "status", status))
