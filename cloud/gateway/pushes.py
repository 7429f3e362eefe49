"""Telling devices what they should run, until they show that they know.

Rules:
- A change of a device's assignment is pushed at the bus's hint, or found by a look at the registry every
  `LOOK_INTERVAL_S`. A device that is online and still does not show it is asked for its birth, each time
  after a longer pause: its birth shows what it has, and is answered with what it should have.
- Builders are asked for the engines that were ordered of them (`cloud.gateway.orders`).
- After each (re)connection of the gateway every device is asked for its birth, because nobody knows what
  was missed; who has not been heard of after `PRESENCE_GRACE_S` is noted as offline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from cloud.bus import Note
from cloud.context import Context
from cloud.gateway import metrics, orders
from cloud.gateway.handler import Send
from cloud.services import ingest, trust
from fleet.errors import OutriderError
from fleet.registry.repositories import Devices, Trust
from fleet.wire import codec
from fleet.wire.messages import Command, CommandOp, Status
from fleet.wire.topics import Down, Up, UpTopic

LOOK_INTERVAL_S = 5.0
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 120.0
PRESENCE_GRACE_S = 30.0
_REBIRTHS_AT_ONCE = 50
_REBIRTH_PAUSE_S = 0.25
log = logging.getLogger(__name__)


@dataclass
class _Pushed:
    """What a device was last sent, and when it may be sent again."""

    counter: int
    pause_s: float
    due: float


class Pushes:
    """Sends `desired` and `cmd` from a thread of its own.

    Args:
        context: the cloud's surroundings.
        send: sends bytes to a device.
        connected: whether the gateway is connected to the broker.
    """

    def __init__(self, context: Context, send: Send, connected: Callable[[], bool]) -> None:
        self._context = context
        self._send = send
        self._connected = connected
        self._changed = threading.Condition()
        self._hints: dict[str, None] = {}
        self._ready_at: float | None = None
        self._presence_due: float | None = None
        self._pushed: dict[str, _Pushed] = {}
        self._closing = False
        self._look_due = 0.0
        self._unlisten: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="gateway-pushes", daemon=True)

    def start(self) -> None:
        """Begin to push, from a thread of its own."""
        self.listen()
        self._thread.start()

    def listen(self) -> None:
        """Take the bus's hints; whoever does not `start` calls `step` when it is time."""
        self._unlisten = self._context.bus.listen(self._hear)

    def stop(self) -> None:
        """Push no more."""
        if self._unlisten is not None:
            self._unlisten()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def ready(self) -> None:
        """The gateway has just connected: ask everybody for their birth."""
        with self._changed:
            self._ready_at = self._context.clock()
            self._changed.notify_all()

    def _hear(self, note: Note) -> None:
        if note.topic != "desired":
            return
        with self._changed:
            self._hints[str(note.data["device"])] = None
            self._changed.notify_all()

    def step(self, now: float) -> None:
        """Do what is due at the monotonic time `now`."""
        with self._changed:
            hints, self._hints = list(self._hints), {}
            ready_at, self._ready_at = self._ready_at, None
        if ready_at is not None:
            self._guard(partial(self._ask_for_births, ready_at), "births")
        if hints:
            self._guard(partial(self._push_hinted, hints, now), "pushes")
        if now >= self._look_due:
            self._look_due = now + LOOK_INTERVAL_S
            self._guard(partial(self._look, now), "looking for devices that are behind")

    def _run(self) -> None:
        while True:
            with self._changed:
                pause_s = max(0.0, self._look_due - time.monotonic())
                self._changed.wait_for(self._woken, pause_s)
                if self._closing:
                    return
            self.step(time.monotonic())

    def _woken(self) -> bool:
        return bool(self._closing or self._hints or self._ready_at is not None)

    def _guard(self, work: Callable[[], None], what: str) -> None:
        try:
            work()
        except Exception:
            log.exception("%s failed; tried again later", what)

    # --- desired ----------------------------------------------------------------------------------

    def _push_hinted(self, devices: list[str], now: float) -> None:
        for device_id in devices:
            with self._context.read() as session:
                device = Devices(session).find(device_id)
                newest = Trust(session).newest_assignment(device_id)
            if device is None or newest is None or device.revoked_at is not None:
                continue
            if device.online:
                topic = UpTopic(device.tenant, device.id, Up.BIRTH)
                self._pushed.pop(device_id, None)
                self._push(topic, newest.counter, now)

    def _look(self, now: float) -> None:
        if not self._connected():
            return
        self._settle_presence()
        for topic, command in orders.due(self._context):
            sealed = trust.sealed(self._context, topic.device, Down.CMD, codec.to_json(command))
            self._send(topic, Down.CMD, sealed)
        for topic, counter in self._behind():
            pushed = self._pushed.get(topic.device)
            if pushed is None or pushed.counter != counter or now >= pushed.due:
                self._push(topic, counter, now)

    def _behind(self) -> list[tuple[UpTopic, int]]:
        found = []
        with self._context.read() as session:
            for device in Devices(session).all():
                newest = Trust(session).newest_assignment(device.id) if device.online else None
                if newest is not None and newest.counter > device.assignment_counter:
                    found.append((UpTopic(device.tenant, device.id, Up.BIRTH), newest.counter))
                else:
                    self._pushed.pop(device.id, None)
        return found

    def _push(self, topic: UpTopic, counter: int, now: float) -> None:
        """Send the assignment; should it be the same as last time, ask what the device has of it."""
        before = self._pushed.get(topic.device)
        again = before is not None and before.counter == counter
        try:
            if again:
                self._ask_for_birth(topic)
            else:
                self._send(topic, Down.DESIRED, trust.sealed_desired(self._context, topic.device))
                metrics.DESIRED.inc()
        except OutriderError as error:
            log.warning("desired state of %s cannot be sent: %s", topic.device, error)
        pause = min(before.pause_s * 2, LONGEST_PAUSE_S) if before and again else FIRST_PAUSE_S
        self._pushed[topic.device] = _Pushed(counter, pause, now + pause)

    # --- births and presence ----------------------------------------------------------------------

    def _ask_for_births(self, ready_at: float) -> None:
        with self._context.read() as session:
            devices = Devices(session).all()
        for number, device in enumerate(devices, start=1):
            if self._closing or not self._connected():
                return
            self._ask_for_birth(UpTopic(device.tenant, device.id, Up.BIRTH))
            if number % _REBIRTHS_AT_ONCE == 0:
                time.sleep(_REBIRTH_PAUSE_S)
        self._presence_due = ready_at + PRESENCE_GRACE_S

    def _ask_for_birth(self, topic: UpTopic) -> None:
        command = Command(id=self._context.ids(), op=CommandOp.REBIRTH)
        sealed = trust.sealed(self._context, topic.device, Down.CMD, codec.to_json(command))
        self._send(topic, Down.CMD, sealed)

    def _settle_presence(self) -> None:
        due = self._presence_due
        if due is None or self._context.clock() < due:
            return
        self._presence_due = None
        with self._context.read() as session:
            silent = [
                device.id
                for device in Devices(session).all()
                if device.online and (device.last_seen_at or 0.0) < due - PRESENCE_GRACE_S
            ]
        for device_id in silent:
            ingest.status(self._context, Status(device=device_id, online=False))
