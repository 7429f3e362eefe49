"""Which link is in use: the medium while one is exchanged with, else the broker's.

Rules:
- The core sees one link that comes and goes.
- An exchange ends by itself: when every model has settled, the buffer is written and nothing else came for `QUIET_S`, when
  what is missing does not come for `STALL_S`, or after `LONGEST_S`; another one goes on where it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from agent.adapters import clock
from agent.adapters.medium import Exchanged, MediumLink
from agent.core.events import Connected, Disconnected, Event, Received
from agent.core.states import SETTLED, State
from agent.core.status import AgentStatus
from fleet.errors import OutriderError
from ota.bundle.medium import Medium

QUIET_S: Final = 6.0
STALL_S: Final = 8.0
LONGEST_S: Final = 3600.0
_LOOK_S: Final = 0.25
_FETCHES: Final = frozenset({State.WAITING.value, State.FETCHING.value})
_SETTLED: Final = frozenset(state.value for state in SETTLED)


class BrokerLink(Protocol):
    """The link to the broker."""

    def publish(self, kind: str, payload: bytes) -> None:
        """Send under ``up/{kind}``."""

    def listen(self, sha256: str, *, on: bool) -> None:
        """Hear a blob's broadcast, or hear it no more."""

    def handled(self, event: Received) -> None:
        """A message that was posted has been handled."""

    def renew(self) -> None:
        """Connect anew, with the certificate of now."""


class Links:
    """One link out of two.

    Args:
        device: this device's id.
        post: takes events.
        status: what the daemon does.

    Attributes:
        broker: the broker's link, whose events go to `heard`.
        exchanged: how the exchange under way, or the last one, went.
    """

    def __init__(
        self, device: str, post: Callable[[Event], None], status: Callable[[], AgentStatus]
    ) -> None:
        self._device, self._post, self._status = device, post, status
        self._medium: MediumLink | None = None
        self._broker_up = False
        self._watch: asyncio.Task[None] | None = None
        self._last = Exchanged()
        self.broker: BrokerLink | None = None

    def heard(self, event: Event) -> None:
        """An event of the broker's link; it waits while a medium is exchanged with."""
        if isinstance(event, Connected):
            self._broker_up = True
        elif isinstance(event, Disconnected):
            self._broker_up = False
        if self._medium is None:
            self._post(event)

    def publish(self, kind: str, payload: bytes) -> None:
        """Send by the link in use; lost when there is none."""
        link = self._medium or self.broker
        if link is not None:
            link.publish(kind, payload)

    def listen(self, sha256: str, *, on: bool) -> None:
        """Hear a blob's broadcast, or hear it no more; a medium has none."""
        if self.broker is not None:
            self.broker.listen(sha256, on=on)

    def handled(self, event: Received) -> None:
        """A message that was posted has been handled."""
        if self.broker is not None:
            self.broker.handled(event)

    def renew(self) -> None:
        """Connect to the broker anew, with the certificate of now."""
        if self.broker is not None:
            self.broker.renew()

    def exchange(self, folder: Path) -> Exchanged:
        """Begin to exchange with a medium, unless one is under way."""
        if self._medium is None:
            try:
                self._medium = MediumLink(Medium(folder), self._device, self._post)
            except OutriderError as error:
                self._last = Exchanged(error=f"{error.code}: {error}")
                return self._last
            self._post(Connected())
            self._watch = asyncio.create_task(self._until_done(self._medium))
        return self.exchanged

    @property
    def exchanged(self) -> Exchanged:
        """How the exchange goes, or went."""
        return self._last if self._medium is None else self._medium.exchanged

    async def stop(self) -> None:
        """End an exchange that is under way."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._medium is not None:
            await asyncio.to_thread(self._medium.stop)

    async def _until_done(self, medium: MediumLink) -> None:
        began = clock.monotonic()
        owed = 0  # rows that lay in the buffer when every model had settled
        while clock.monotonic() < began + LONGEST_S and not medium.error:
            await asyncio.sleep(_LOOK_S)
            still_s = clock.monotonic() - medium.moved_at
            status = self._status()
            states = {model.state for model in status.models}
            settled = states <= _SETTLED
            owed = min(owed or status.buffered, status.buffered) if settled else 0
            if settled and still_s > QUIET_S and len(medium.rows) >= owed:
                break
            if states & _FETCHES and still_s > STALL_S:
                break
        await asyncio.to_thread(medium.stop)
        self._last = msgspec.structs.replace(medium.exchanged, running=False)
        self._medium = None
        self._post(Disconnected(reason="the exchange with the medium has ended"))
        if self._broker_up:
            self._post(Connected())
