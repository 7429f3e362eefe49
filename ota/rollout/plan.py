"""A rollout as data: what is asked for, where it stands, and what to do next. JSON-able throughout."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import pairwise
from math import ceil

import msgspec

from ota.errors import RolloutError, TransferError
from ota.rollout.tables import DeviceStatus, RolloutStatus, WaveStatus
from ota.transfer.terms import check_spans

SMALL_FLEET = 20
FAILURES_SHARE = 0.05
MIN_LIMIT_BYTES_S = 1_024


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the rollout's parts."""


class RolloutSpec(Struct, frozen=True):
    """What is asked for.

    Attributes:
        waves: cumulative share of the devices after each wave, percent, growing, the last is 100.
        max_failures: the hard gate: pause as soon as so many devices have failed; 0 stands for 1
            below 20 devices, else 5 % of them.
        soak_s: how long a settled wave is watched before its gate.
        wave_timeout_s: devices that have not reported an end by then are `stale`, outside the gate.
        offline_grace_s: a device that has been offline for less still holds its wave.
        approval: another person must approve before it starts.
        start_at: Unix time before which it does not start; 0: at once.
        limit_bytes_s: a device fetches at most so much per second; 0: as its link allows.
        quiet: times of day, by the device's own time zone, at which it fetches nothing, ``HH:MM-HH:MM``.
        broadcast: devices of a wave may share one broadcast of an artifact.
    """

    waves: list[float] = msgspec.field(default_factory=lambda: [10.0, 50.0, 100.0])
    max_failures: int = 0
    soak_s: float = 300.0
    wave_timeout_s: float = 3_600.0
    offline_grace_s: float = 30.0
    approval: bool = False
    start_at: float = 0.0
    limit_bytes_s: int = 0
    quiet: list[str] = []
    broadcast: bool = True


class DeviceState(Struct, frozen=True):
    """One device within the rollout.

    Attributes:
        wave: index of the wave that took it; -1 before.
        offline_since: Unix time; 0 while it is online.
        late: it has been offline longer than the grace; no wave waits for it.
        error: why it failed.
    """

    status: DeviceStatus = DeviceStatus.PENDING
    wave: int = -1
    offline_since: float = 0.0
    late: bool = False
    error: str = ""


class WaveState(Struct, frozen=True):
    """One wave.

    Attributes:
        percent: cumulative share of the devices.
        began_at: when its first device was assigned, Unix time, 0 before.
        settled_at: when all its devices had come to an end, likewise. Both are moved on by the time
            that is spent paused.
        reason: why it failed or is inconclusive.
    """

    percent: float
    status: WaveStatus = WaveStatus.PENDING
    began_at: float = 0.0
    settled_at: float = 0.0
    reason: str = ""


class RolloutState(Struct, frozen=True):
    """Where a rollout stands.

    Attributes:
        devices: in the order in which they are taken.
        wave: index of the present wave; -1 before the first.
        reason: why it is paused or has ended.
        accepted_failures: failures that an operator has accepted by resuming.
        paused_at: Unix time; 0 while it is not paused.
        submitted_by: who asked for approval.
    """

    spec: RolloutSpec
    devices: dict[str, DeviceState]
    waves: list[WaveState]
    status: RolloutStatus = RolloutStatus.DRAFT
    wave: int = -1
    reason: str = ""
    accepted_failures: int = 0
    paused_at: float = 0.0
    submitted_by: str = ""


class Outcome(str, Enum):
    """The end of one device's update, as it reports it."""

    COMMITTED = "committed"
    FAILED = "failed"
    INCOMPATIBLE = "incompatible"
    REFUSED = "refused"


# --- events ----------------------------------------------------------------------------------------


class Submit(Struct, frozen=True):
    """Ask for approval."""

    by: str


class Approve(Struct, frozen=True):
    """Let it start; by another person than the one who submitted it."""

    by: str


class Start(Struct, frozen=True):
    """Begin the first wave."""


class Pause(Struct, frozen=True):
    """Assign nothing more for now; what is assigned goes on."""

    reason: str = "paused by an operator"


class Resume(Struct, frozen=True):
    """Go on, and accept the failures so far."""


class Abort(Struct, frozen=True):
    """Stop for good: what is not committed yet is taken back, what is committed stays."""

    reason: str = "aborted by an operator"


class Rollback(Struct, frozen=True):
    """Stop for good, and restore every device that was assigned."""

    reason: str = "rolled back by an operator"


class DeviceReported(Struct, frozen=True):
    """A device's update has come to its end."""

    device: str
    outcome: Outcome
    error: str = ""


class DeviceOnline(Struct, frozen=True):
    """A device has connected."""

    device: str


class DeviceOffline(Struct, frozen=True):
    """A device has disconnected."""

    device: str


class Tick(Struct, frozen=True):
    """Time has passed; due at `machine.deadline`."""


Event = (
    Submit
    | Approve
    | Start
    | Pause
    | Resume
    | Abort
    | Rollback
    | DeviceReported
    | DeviceOnline
    | DeviceOffline
    | Tick
)

# --- commands --------------------------------------------------------------------------------------


class Assign(Struct, frozen=True):
    """Assign the rollout's release to a device."""

    device: str


class Restore(Struct, frozen=True):
    """Assign a device again what it ran before the rollout."""

    device: str


Command = Assign | Restore


def create(spec: RolloutSpec, devices: Mapping[str, bool], *, now: float) -> RolloutState:
    """A rollout's draft.

    Args:
        spec: what is asked for.
        devices: the cohort in the order in which it should be taken, and who is online.
        now: Unix time.

    Raises:
        RolloutError: it cannot be carried out.
    """
    _check(spec, len(devices))
    return RolloutState(
        spec=spec,
        devices={
            device: DeviceState(offline_since=0.0 if online else now, late=not online)
            for device, online in devices.items()
        },
        waves=[WaveState(percent=percent) for percent in spec.waves],
    )


def failures_allowed(spec: RolloutSpec, devices_n: int) -> int:
    """The number of failures at which the hard gate pauses."""
    if spec.max_failures:
        return spec.max_failures
    return 1 if devices_n < SMALL_FLEET else ceil(FAILURES_SHARE * devices_n)


def quota(percent: float, devices_n: int) -> int:
    """How many of the devices have been taken after a wave: rounded down, at least one."""
    return min(devices_n, max(1, int(percent * devices_n / 100 + 1e-9)))


def _check(spec: RolloutSpec, devices_n: int) -> None:
    if not devices_n:
        raise RolloutError(
            "expected at least one device in the cohort, found none; widen its query"
        )
    waves = spec.waves
    growing = all(a < b for a, b in pairwise(waves))
    if not waves or waves[0] <= 0 or waves[-1] != 100 or not growing:
        raise RolloutError(
            f"expected waves as growing percentages above 0 that end at 100, found {waves}"
        )
    numbers = {
        "max_failures": spec.max_failures,
        "soak_s": spec.soak_s,
        "wave_timeout_s": spec.wave_timeout_s,
        "offline_grace_s": spec.offline_grace_s,
        "limit_bytes_s": spec.limit_bytes_s,
    }
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            raise RolloutError(f"expected {name} to be a number not below 0, found {value}")
    if spec.limit_bytes_s and spec.limit_bytes_s < MIN_LIMIT_BYTES_S:
        raise RolloutError(
            f"expected a limit of {MIN_LIMIT_BYTES_S} bytes/s or more, or 0 for none, found "
            f"{spec.limit_bytes_s}; raise it"
        )
    try:
        check_spans(spec.quiet)
    except TransferError as error:
        raise RolloutError(str(error)) from None
