"""The waves of a rollout: whom they take, when they are settled, and their hard gate."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ota.rollout.plan import (
    Assign,
    Command,
    DeviceState,
    RolloutState,
    WaveState,
    failures_allowed,
    quota,
)
from ota.rollout.tables import (
    DEVICE,
    ROLLOUT,
    WAVE,
    DeviceEvent,
    DeviceStatus,
    RolloutEvent,
    RolloutStatus,
    WaveEvent,
    WaveStatus,
)

_ENDS = frozenset({DeviceStatus.COMMITTED, DeviceStatus.FAILED, DeviceStatus.INCOMPATIBLE})


def advance(state: RolloutState, now: float, commands: list[Command]) -> RolloutState:
    """Move the waves of a running rollout as far as they go, and append what to do."""
    while state.status is RolloutStatus.RUNNING:
        before, state = state, _advance_once(state, now, commands)
        if state is before:
            break
    return state


def deadline(state: RolloutState) -> float | None:
    """When time alone moves the present wave of a running rollout."""
    wave = state.waves[state.wave]
    if wave.status is WaveStatus.SOAKING:
        return wave.settled_at + state.spec.soak_s
    due = [
        device.offline_since + state.spec.offline_grace_s
        for device in _members(state, DeviceStatus.ASSIGNED)
        if device.offline_since and not device.late
    ]
    if wave.began_at:
        due.append(wave.began_at + state.spec.wave_timeout_s)
    return min(due, default=None)


def count(state: RolloutState, *statuses: DeviceStatus) -> int:
    """How many devices stand in one of `statuses`."""
    return sum(device.status in statuses for device in state.devices.values())


def resumed(state: RolloutState, pause_s: float) -> RolloutState:
    """The present wave goes on: its times move on by the pause, and its verdict is overruled."""
    wave = state.waves[state.wave]
    if wave.status is WaveStatus.FAILED:
        state = _moved(state, WaveEvent.RETRY)
        return _changed(state, began_at=wave.began_at + pause_s, settled_at=0.0, reason="")
    if wave.status is WaveStatus.INCONCLUSIVE:
        return _moved(state, WaveEvent.ACCEPT)
    began = wave.began_at + pause_s if wave.began_at else 0.0
    settled = wave.settled_at + pause_s if wave.settled_at else 0.0
    return _changed(state, began_at=began, settled_at=settled)


def preview(state: RolloutState) -> list[list[str]]:
    """Which devices each wave would take if all went well and nobody came or went."""
    left = {d: s for d, s in state.devices.items() if s.status is DeviceStatus.PENDING}
    eligible = len(state.devices) - count(state, DeviceStatus.INCOMPATIBLE)
    taken, planned = 0, []
    for at, wave in enumerate(state.waves):
        last = at == len(state.waves) - 1
        room = quota(wave.percent, eligible) - taken
        names = list(left) if last else [d for d, s in left.items() if not s.offline_since][:room]
        planned.append(names)
        taken += len(names)
        left = {d: s for d, s in left.items() if d not in names}
    return planned


def _advance_once(state: RolloutState, now: float, commands: list[Command]) -> RolloutState:
    if state.wave < 0 or state.waves[state.wave].status is WaveStatus.PASSED:
        return _next_wave(state)
    status = state.waves[state.wave].status
    if status is WaveStatus.GATING:
        return _judged(state, now)
    state = _aged(state, now)
    failed = count(state, DeviceStatus.FAILED) - state.accepted_failures
    if failed >= failures_allowed(state.spec, _eligible(state)):
        return _paused(_moved(state, WaveEvent.FAIL), _failures(state), now)
    if status is WaveStatus.SOAKING:
        over = now >= state.waves[state.wave].settled_at + state.spec.soak_s
        return _moved(state, WaveEvent.SOAKED) if over else state
    return _settled(_filled(state, now, commands), now)


def _next_wave(state: RolloutState) -> RolloutState:
    if state.wave == len(state.waves) - 1:
        return replace(state, status=ROLLOUT.next(state.status, RolloutEvent.FINISH))
    return _moved(replace(state, wave=state.wave + 1), WaveEvent.BEGIN)


def _aged(state: RolloutState, now: float) -> RolloutState:
    """Devices that have been offline for longer than the grace are late from now on."""
    grace_s = state.spec.offline_grace_s
    late = {
        name: replace(device, late=True)
        for name, device in state.devices.items()
        if device.offline_since and not device.late and now >= device.offline_since + grace_s
    }
    return replace(state, devices={**state.devices, **late}) if late else state


def _filled(state: RolloutState, now: float, commands: list[Command]) -> RolloutState:
    """Assign the release to as many devices as the wave still has room for."""
    pending = {d: s for d, s in state.devices.items() if s.status is DeviceStatus.PENDING}
    last = state.wave == len(state.waves) - 1
    names = list(pending) if last else [d for d, s in pending.items() if not s.offline_since]
    names = names if last else names[: _room(state)]
    if not names:
        return state
    taken = {
        name: replace(
            pending[name],
            status=DEVICE.next(DeviceStatus.PENDING, DeviceEvent.ASSIGN),
            wave=state.wave,
        )
        for name in names
    }
    commands.extend(Assign(device=name) for name in names)
    state = replace(state, devices={**state.devices, **taken})
    return state if state.waves[state.wave].began_at else _changed(state, began_at=now)


def _settled(state: RolloutState, now: float) -> RolloutState:
    """Begin to soak once nobody who could still be waited for has yet to come to an end."""
    wave = state.waves[state.wave]
    holding = any(not device.late for device in _members(state, DeviceStatus.ASSIGNED))
    if wave.began_at and now >= wave.began_at + state.spec.wave_timeout_s:
        state = _expired(state)
    elif not wave.began_at and _room(state) <= 0:
        # Rounding left nothing for this wave: there is nothing to watch either.
        return _changed(_moved(state, WaveEvent.SETTLE), settled_at=now - state.spec.soak_s)
    elif holding or not wave.began_at or not (_evidence(state) or _ended(state)):
        return state
    return _changed(_moved(state, WaveEvent.SETTLE), settled_at=now)


def _ended(state: RolloutState) -> bool:
    """Whether a device of this wave has come to its end."""
    return any(d.wave == state.wave and d.status in _ENDS for d in state.devices.values())


def _expired(state: RolloutState) -> RolloutState:
    """Devices that are online and have stayed silent are stale."""
    stale = {
        name: replace(device, status=DEVICE.next(device.status, DeviceEvent.EXPIRE))
        for name, device in state.devices.items()
        if device.status is DeviceStatus.ASSIGNED and not device.late
    }
    return replace(state, devices={**state.devices, **stale})


def _judged(state: RolloutState, now: float) -> RolloutState:
    if _evidence(state):
        return _moved(state, WaveEvent.CLEAR)
    doubt = _moved(state, WaveEvent.DOUBT)
    return _paused(doubt, "inconclusive: no device has committed the release yet", now)


def _evidence(state: RolloutState) -> bool:
    """Whether a device runs the release, or an operator has accepted that none does."""
    return bool(count(state, DeviceStatus.COMMITTED) or state.accepted_failures)


def _paused(state: RolloutState, reason: str, now: float) -> RolloutState:
    state = _changed(state, reason=reason)
    status = ROLLOUT.next(state.status, RolloutEvent.PAUSE)
    return replace(state, status=status, paused_at=now, reason=reason)


def _failures(state: RolloutState) -> str:
    failed = [(n, d.error) for n, d in state.devices.items() if d.status is DeviceStatus.FAILED]
    shown = ", ".join(f"{name} ({error})" for name, error in failed[:3])
    more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"hard gate: {len(failed)} of {_eligible(state)} devices failed: {shown}{more}"


def _eligible(state: RolloutState) -> int:
    return len(state.devices) - count(state, DeviceStatus.INCOMPATIBLE)


def _room(state: RolloutState) -> int:
    """How many more devices the present wave may take; one that is late leaves its place to another."""
    taken = sum(
        device.status not in {DeviceStatus.PENDING, DeviceStatus.INCOMPATIBLE}
        and not (device.status is DeviceStatus.ASSIGNED and device.late)
        for device in state.devices.values()
    )
    return quota(state.waves[state.wave].percent, _eligible(state)) - taken


def _members(state: RolloutState, status: DeviceStatus) -> Iterator[DeviceState]:
    return (d for d in state.devices.values() if d.wave == state.wave and d.status is status)


def _moved(state: RolloutState, event: WaveEvent) -> RolloutState:
    return _changed(state, status=WAVE.next(state.waves[state.wave].status, event))


def _changed(state: RolloutState, **changes: object) -> RolloutState:
    waves: list[WaveState] = list(state.waves)
    waves[state.wave] = replace(waves[state.wave], **changes)
    return replace(state, waves=waves)
