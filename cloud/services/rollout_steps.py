"""One step of a rollout as one transaction: the machine's new state and everything that follows from it.

Rules:
- The machine's state, the assignments that it asks for, the members' rows and the history are written
  together or not at all: a cloud that dies in the middle has not taken the step.
- A rollout restores only what is still its own; a device that a newer rollout has taken over is left alone.
"""

from __future__ import annotations

import msgspec

from cloud.context import Unit
from cloud.services import proving_steps, trust
from cloud.settings import Settings
from fleet.registry.repositories import Rollouts, Trust
from fleet.registry.tables import DesiredModel, Rollout, RolloutDevice, RolloutStep
from ota.rollout import machine
from ota.rollout.plan import Assign, Event, RolloutState


def state_of(rollout: Rollout) -> RolloutState:
    """The machine's state as it was persisted."""
    return msgspec.convert(rollout.machine, RolloutState)


def is_due(rollout: Rollout, now: float) -> bool:
    """Whether time alone moves the rollout."""
    deadline = machine.deadline(state_of(rollout))
    return deadline is not None and now >= deadline


def take(unit: Unit, settings: Settings, rollout: Rollout, event: Event) -> None:
    """Step the machine and carry out its commands; nothing is written when nothing moves.

    Args:
        unit: the transaction; `rollout` must be locked in it.
        settings: where the keys are.
        rollout: the rollout's row.
        event: what happened.

    Raises:
        UnlistedTransitionError, RolloutError: an order that does not fit; the rollout stands as it was.
    """
    before = state_of(rollout)
    after, commands = machine.step(before, event, unit.now)
    if after == before and not commands:
        return
    rollout.machine = msgspec.to_builtins(after)
    rollout.state, rollout.reason = after.status.value, after.reason
    rollout.revision += 1
    rollout.updated_at = unit.now
    for command in commands:
        if isinstance(command, Assign):
            _assign(unit, settings, rollout, command.device)
        else:
            _restore(unit, settings, rollout, command.device)
    _sync_members(unit, rollout, before, after)
    _narrate(unit, rollout.id, before, after)
    unit.publish("rollout", rollout=rollout.id)


def note(unit: Unit, rollout_id: str, code: str, text: str) -> None:
    """Add a line to a rollout's history."""
    repository = Rollouts(unit.session)
    number = repository.last_step_number(rollout_id) + 1
    repository.add(
        RolloutStep(rollout=rollout_id, number=number, at=unit.now, code=code, text=text)
    )


def _assign(unit: Unit, settings: Settings, rollout: Rollout, device: str) -> None:
    member = _member(unit, rollout, device)
    if member.artifact is None:
        raise AssertionError(f"{device} has no variant and is no candidate of {rollout.id}")
    trust_rows = Trust(unit.session)
    proving_steps.give_way(unit, settings, device, rollout.model, to=f"rollout {rollout.id}")
    before = trust_rows.desired_model(device, rollout.model)
    if before is not None:
        member.previous_release, member.previous_artifact = before.release, before.artifact
    trust_rows.set_desired(
        DesiredModel(
            device=device,
            model=rollout.model,
            release=rollout.release,
            artifact=member.artifact,
            rollout=rollout.id,
            updated_at=unit.now,
        )
    )
    member.counter = trust.assign(unit, settings, device, rollout=rollout.id).counter


def _restore(unit: Unit, settings: Settings, rollout: Rollout, device: str) -> None:
    member = _member(unit, rollout, device)
    trust_rows = Trust(unit.session)
    proving_steps.give_way(unit, settings, device, rollout.model, to=f"rollout {rollout.id}")
    current = trust_rows.desired_model(device, rollout.model)
    if current is None or current.rollout != rollout.id:
        note(unit, rollout.id, "device.superseded", f"{device}: a newer rollout has it; left alone")
        return
    if member.previous_artifact is None:
        trust_rows.clear_desired(device, rollout.model)
    else:
        trust_rows.set_desired(
            DesiredModel(
                device=device,
                model=rollout.model,
                release=member.previous_release,
                artifact=member.previous_artifact,
                rollout=rollout.id,
                updated_at=unit.now,
            )
        )
    trust.assign(unit, settings, device, rollout=rollout.id)


def _member(unit: Unit, rollout: Rollout, device: str) -> RolloutDevice:
    member = Rollouts(unit.session).member(rollout.id, device)
    if member is None:
        raise AssertionError(f"{device} is in the machine of {rollout.id} but has no row")
    return member


def _sync_members(unit: Unit, rollout: Rollout, before: RolloutState, after: RolloutState) -> None:
    for device, state in after.devices.items():
        if state == before.devices.get(device):
            continue
        member = _member(unit, rollout, device)
        member.state, member.wave = state.status.value, state.wave
        member.reason = state.error
        member.updated_at = unit.now
    unit.session.flush()


def _narrate(unit: Unit, rollout_id: str, before: RolloutState, after: RolloutState) -> None:
    for device, state in after.devices.items():
        was = before.devices[device]
        if state.status is not was.status:
            why = f": {state.error}" if state.error else ""
            note(unit, rollout_id, f"device.{state.status.value}", f"{device}{why}")
    for index, (was_wave, wave) in enumerate(zip(before.waves, after.waves, strict=True)):
        if wave.status is not was_wave.status:
            why = f": {wave.reason}" if wave.reason else ""
            text = f"wave {index + 1} of {len(after.waves)}{why}"
            note(unit, rollout_id, f"wave.{wave.status.value}", text)
    if after.status is not before.status:
        note(unit, rollout_id, f"rollout.{after.status.value}", after.reason)
