"""The rollout's decisions: pure, one step per event.

Rules:
- ``step(state, event, now)`` returns the new state and what to do; the old state is left alone.
- An order that does not fit the rollout's status raises `UnlistedTransitionError`; a report of a
  device that does not fit is dropped, because devices repeat themselves.
- A wave takes devices that are online; those that are offline join a later one, the last wave takes
  all that are left, and no wave waits for a device that has been offline longer than the grace.
- Devices that cannot run the release (`incompatible`) are in no denominator.
- The hard gate works at every moment: as soon as too many have failed, the wave fails and the
  rollout pauses.
- `now` is Unix time in seconds, above 0; 0 stands for "not yet" throughout the state.
"""

from __future__ import annotations

from msgspec.structs import replace

from ota.errors import RolloutError
from ota.rollout import plan, waves
from ota.rollout.plan import Command, Event, Outcome, Restore, RolloutState
from ota.rollout.tables import (
    DEVICE,
    ENDED,
    ROLLOUT,
    DeviceEvent,
    DeviceStatus,
    RolloutEvent,
    RolloutStatus,
)

Step = tuple[RolloutState, list[Command]]

_ORDERS: dict[type, RolloutEvent] = {
    plan.Submit: RolloutEvent.SUBMIT,
    plan.Approve: RolloutEvent.APPROVE,
    plan.Start: RolloutEvent.START,
    plan.Pause: RolloutEvent.PAUSE,
    plan.Resume: RolloutEvent.RESUME,
    plan.Abort: RolloutEvent.ABORT,
    plan.Rollback: RolloutEvent.ROLLBACK,
}
_OUTCOMES = {
    Outcome.COMMITTED: DeviceEvent.COMMIT,
    Outcome.FAILED: DeviceEvent.FAIL,
    Outcome.REFUSED: DeviceEvent.FAIL,
    Outcome.INCOMPATIBLE: DeviceEvent.EXCLUDE,
}


def step(state: RolloutState, event: Event, now: float) -> Step:
    """Take one event.

    Args:
        state: where the rollout stands.
        event: what happened, or what an operator orders.
        now: Unix time.

    Returns:
        Where it stands now, and the commands to carry out, which may be repeated without harm.

    Raises:
        UnlistedTransitionError: the order does not fit the rollout's status.
        RolloutError: the order is not allowed.
    """
    commands: list[Command] = []
    order = _ORDERS.get(type(event))
    if order is not None:
        state = _ordered(state, event, order, now, commands)
    elif isinstance(event, plan.DeviceReported):
        state = _reported(state, event)
    elif isinstance(event, (plan.DeviceOnline, plan.DeviceOffline)):
        state = _presence(state, event, now)
    if state.status is RolloutStatus.SCHEDULED and now >= state.spec.start_at:
        state = replace(state, status=ROLLOUT.next(state.status, RolloutEvent.START))
    if state.status is RolloutStatus.RUNNING:
        state = waves.advance(state, now, commands)
    return state, commands


def deadline(state: RolloutState) -> float | None:
    """When a `Tick` is due, Unix time; None: only events can move the rollout."""
    if state.status is RolloutStatus.SCHEDULED:
        return state.spec.start_at
    if state.status is not RolloutStatus.RUNNING:
        return None
    return waves.deadline(state)


def _ordered(
    state: RolloutState, event: Event, order: RolloutEvent, now: float, commands: list[Command]
) -> RolloutState:
    status = ROLLOUT.next(state.status, order)
    if isinstance(event, plan.Start) and state.spec.approval and not state.submitted_by:
        raise RolloutError("expected an approval before the start, found none; submit the rollout")
    if isinstance(event, plan.Approve) and event.by == state.submitted_by:
        raise RolloutError(
            f"expected the approval of another person than {event.by!r}, who submitted the rollout"
        )
    if isinstance(event, plan.Submit):
        return replace(state, status=status, submitted_by=event.by)
    if isinstance(event, plan.Pause):
        return replace(state, status=status, paused_at=now, reason=event.reason)
    if isinstance(event, plan.Resume):
        return _resumed(replace(state, status=status, reason=""), now)
    if isinstance(event, plan.Abort):
        ended = replace(state, status=status, reason=event.reason)
        return _restore(
            ended, {DeviceStatus.ASSIGNED, DeviceStatus.STALE, DeviceStatus.FAILED}, commands
        )
    if isinstance(event, plan.Rollback):
        ended = replace(state, status=status, reason=event.reason)
        return _restore(ended, set(DeviceStatus) - {DeviceStatus.PENDING}, commands)
    return replace(state, status=status)


def _resumed(state: RolloutState, now: float) -> RolloutState:
    """The time that was spent paused does not count, nor do the failures that were looked at."""
    pause_s = now - state.paused_at
    failures = waves.count(state, DeviceStatus.FAILED)
    state = replace(state, paused_at=0.0, accepted_failures=failures)
    return waves.resumed(state, pause_s) if state.wave >= 0 else state


def _restore(
    state: RolloutState, which: set[DeviceStatus], commands: list[Command]
) -> RolloutState:
    devices = dict(state.devices)
    for device, known in state.devices.items():
        if known.status in which and DEVICE.allows(known.status, DeviceEvent.RESTORE):
            devices[device] = replace(known, status=DEVICE.next(known.status, DeviceEvent.RESTORE))
            commands.append(Restore(device=device))
    return replace(state, devices=devices)


def _reported(state: RolloutState, event: plan.DeviceReported) -> RolloutState:
    known = state.devices.get(event.device)
    moved = _OUTCOMES[event.outcome]
    if known is None or not DEVICE.allows(known.status, moved):
        return state
    error = event.error or event.outcome.value if moved is DeviceEvent.FAIL else event.error
    new = replace(known, status=DEVICE.next(known.status, moved), error=error)
    return replace(state, devices={**state.devices, event.device: new})


def _presence(
    state: RolloutState, event: plan.DeviceOnline | plan.DeviceOffline, now: float
) -> RolloutState:
    known = state.devices.get(event.device)
    if known is None or state.status in ENDED:
        return state
    if isinstance(event, plan.DeviceOnline):
        new = replace(known, offline_since=0.0, late=False)
    else:
        new = replace(known, offline_since=known.offline_since or now)
    return replace(state, devices={**state.devices, event.device: new})
