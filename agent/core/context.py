"""What the rooms of the core share: who the device is, what time it is, and the list of commands."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from agent.core.commands import Append, Command, Log, Publish
from fleet.wire import codec, envelope
from fleet.wire.envelope import Signer
from fleet.wire.messages import Event, EventLevel
from ota.transfer.terms import DAY_S


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Who the device is, and how it was configured.

    Attributes:
        runtimes: names of the runtimes that are allowed; empty for all that are installed.
        good_answers: answers without an error that end a probation.
        probation_s: longest probation; what is missing then comes from the golden vectors.
        window_s: length of a telemetry window.
        health_s: time between two readings of the sensors.
        environment: what engines built here depend on; empty where none can be built.
        build_timeout_s: longest build of an engine.
        https: whether blobs can be had over HTTPS too.
    """

    tenant: str
    device: str
    hardware_class: str
    agent_version: str
    runtimes: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    environment: dict[str, str] = {}
    good_answers: int = 10
    probation_s: float = 60.0
    window_s: float = 60.0
    health_s: float = 300.0
    build_timeout_s: float = 7200.0
    https: bool = False


class Context:
    """The core's surroundings.

    Args:
        settings: the device's.
        signer: signs with the device's key.
        boot_epoch: random, new at each start.
        ids: makes an id that was never used before, at each call.
        utc_offset_s: what local time is ahead of UTC at a Unix time, in seconds.

    Attributes:
        now: monotonic time of the event that is being handled, seconds.
        out: the commands that were decided on so far.
        connected: whether the link stands.
        time_confirmed: whether the cloud has told the time since this boot.
        unsaved: whether the disk is behind; then no slot is written and nothing heavy begins.
    """

    def __init__(
        self,
        settings: Settings,
        signer: Signer,
        *,
        boot_epoch: str,
        ids: Callable[[], str],
        utc_offset_s: Callable[[float], float],
    ) -> None:
        self.settings = settings
        self.boot_epoch = boot_epoch
        self.ids = ids
        self.now = 0.0
        self.out: list[Command] = []
        self.connected = False
        self.unsaved = False
        self.time_confirmed = False
        self._utc_offset_s = utc_offset_s
        self._signer = signer
        self._seq = 0
        self._workers = 0
        self._wall_offset = 0.0
        self._trusted = (0.0, 0.0)

    def do(self, *commands: Command) -> None:
        """Add commands to the list."""
        self.out.extend(commands)

    def next_seq(self) -> int:
        """The next sequence number of this boot epoch."""
        self._seq += 1
        return self._seq

    def next_worker(self) -> int:
        """A number for a new worker."""
        self._workers += 1
        return self._workers

    # --- time ------------------------------------------------------------------------------------

    def set_wall(self, wall: float) -> None:
        """The local clock shows `wall` now."""
        self._wall_offset = wall - self.now

    def set_trusted(self, floor: float) -> None:
        """Trusted time is at least `floor` now; it never falls."""
        floor = max(floor, self.trusted_now())
        self._trusted = (floor, self.now)

    def trusted_now(self) -> float:
        """The floor, and what has passed on the monotonic clock since it was raised."""
        return self.trusted_at(self.now)

    def trusted_at(self, monotonic: float) -> float:
        """The same for another moment; for those who wait for no event. May be called from any thread."""
        floor, since = self._trusted
        return floor + (monotonic - since)

    def wall(self) -> float:
        """What the local clock shows, right or wrong."""
        return self.now + self._wall_offset

    def time_of_day_s(self) -> float:
        """Seconds since local midnight, by trusted time and the device's time zone."""
        now = self.trusted_now()
        return (now + self._utc_offset_s(now)) % DAY_S

    def device_time(self) -> float:
        """Best guess of the time, for people to read; a clock that was never set, or set wrong, is overruled."""
        return self.trusted_now() if self.time_confirmed else max(self.wall(), self.trusted_now())

    # --- what goes up ----------------------------------------------------------------------------

    def publish(self, kind: str, payload: bytes, *, counter: int) -> None:
        """Seal and send; nothing happens while the link is down."""
        if self.connected:
            self.do(Publish(kind=kind, payload=self.sealed(kind, payload, counter=counter)))

    def sealed(self, kind: str, payload: bytes, *, counter: int) -> bytes:
        """A message under the device's signature."""
        made = envelope.seal(kind, self.settings.device, payload, self._signer, counter=counter)
        return envelope.to_bytes(made)

    def append(self, kind: str, seq: int, payload: bytes) -> None:
        """Buffer a message that must not be lost."""
        self.do(Append(boot_epoch=self.boot_epoch, seq=seq, kind=kind, payload=payload))

    def event(
        self,
        code: str,
        text: str,
        *,
        level: EventLevel = EventLevel.INFO,
        model: str = "",
        release: str = "",
        figures: dict[str, float] | None = None,
    ) -> None:
        """Tell the operator, and the log; one without a text is for machines only."""
        seq = self.next_seq()
        event = Event(
            device=self.settings.device,
            boot_epoch=self.boot_epoch,
            seq=seq,
            at=self.device_time(),
            code=code,
            text=text[:2000],
            level=level,
            model=model,
            release=release,
            figures=figures or {},
        )
        self.append("event", seq, codec.to_json(event))
        if text:
            self.log(level.value, code, text, model=model, release=release)

    def log(self, level: str, code: str, text: str, **fields: str) -> None:
        """A line in the device's own log."""
        self.do(
            Log(level=level, code=code, text=text, fields={k: v for k, v in fields.items() if v})
        )
