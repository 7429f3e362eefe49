"""Rollouts: what people order and devices report, one persisted step of the pure machine at a time.

Rules:
- Orders may be repeated: one that is already fulfilled changes nothing.
- Success is a device that reports the very digest of its variant as committed, under the assignment
  that the rollout gave it or a later one.
- Locks are taken in one order, rollouts before devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.services import cohorts, rollout_steps
from cloud.services.cohorts import Cohort, Member
from cloud.services.releases import id_of
from fleet.registry.repositories import Models, Rollouts
from fleet.registry.tables import Rollout, RolloutDevice
from fleet.wire.messages import Reported
from ota.rollout import plan
from ota.rollout.plan import Event, Outcome, RolloutSpec
from ota.rollout.tables import RolloutStatus

OPEN = ("draft", "awaiting_approval", "scheduled", "running", "paused")
"""States in which a member's reports and presence still matter."""

_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_ORDERS: dict[str, tuple[Event, RolloutStatus]] = {
    "start": (plan.Start(), RolloutStatus.RUNNING),
    "pause": (plan.Pause(), RolloutStatus.PAUSED),
    "resume": (plan.Resume(), RolloutStatus.RUNNING),
    "abort": (plan.Abort(), RolloutStatus.ABORTED),
    "rollback": (plan.Rollback(), RolloutStatus.ROLLED_BACK),
}
ORDERS = tuple(_ORDERS)


def create(
    context: Context, *, release: str, cohort: Cohort, spec: RolloutSpec, start: bool, by: str
) -> str:
    """Make a rollout, and start it when `start`; returns its id.

    Raises:
        NotFoundError: no such release or device.
        InputError: nobody is in the cohort.
        RolloutError: nobody in it can run the release, or a spec that cannot be carried out.
    """
    with context.unit() as unit:
        members = cohorts.resolve(unit.session, cohort, release)
        able = {m.device.id: m.device.online for m in members if m.artifact is not None}
        state = plan.create(spec, able, now=unit.now)
        rollout = Rollout(
            id=context.ids(),
            release=release,
            model=Models(unit.session).release(release).model,
            cohort=msgspec.to_builtins(cohort),
            spec=msgspec.to_builtins(spec),
            machine=msgspec.to_builtins(state),
            created_at=unit.now,
            created_by=by,
            updated_at=unit.now,
        )
        Rollouts(unit.session).add(rollout)
        for position, member in enumerate(members):
            Rollouts(unit.session).add(_member(unit, rollout, position, member))
        log.record(
            unit,
            actor=by,
            action="rollout.create",
            subject=rollout.id,
            release=release,
            members=len(members),
        )
        rollout_steps.note(
            unit, rollout.id, "rollout.created", f"{release} for {len(able)} devices"
        )
        if start:
            _start(unit, context, rollout, by)
        unit.publish("rollout", rollout=rollout.id)
    return rollout.id


def order(context: Context, rollout_id: str, name: str, *, by: str) -> None:
    """Carry out one of `ORDERS`.

    Raises:
        NotFoundError: no such rollout.
        UnlistedTransitionError: the order does not fit the rollout's state.
    """
    event, goal = _ORDERS[name]
    with context.unit() as unit:
        rollout = Rollouts(unit.session).get_for_update(rollout_id)
        if rollout.state == goal.value:
            return
        rollout_steps.take(unit, context.settings, rollout, event)
        log.record(
            unit, actor=by, action=f"rollout.{name}", subject=rollout.id, release=rollout.release
        )


def lock(unit: Unit, device: str, *, release: str = "") -> Sequence[Rollout]:
    """The rollouts that a message of a device may move; call it before the device itself is locked.

    Args:
        unit: the transaction.
        device: who sent it.
        release: what it is about: a device that was silent for long still counts when it speaks up.
    """
    return Rollouts(unit.session).of_device_for_update(device, OPEN, succeeded=release)


def on_presence(
    unit: Unit, context: Context, rollouts: Sequence[Rollout], device: str, *, online: bool
) -> None:
    """A member has connected or disconnected."""
    event = plan.DeviceOnline(device=device) if online else plan.DeviceOffline(device=device)
    for rollout in rollouts:
        rollout_steps.take(unit, context.settings, rollout, event)


def on_report(unit: Unit, context: Context, rollouts: Sequence[Rollout], message: Reported) -> None:
    """A member has reported the end of an update."""
    outcome = _OUTCOMES.get(message.state) if message.terminal else None
    release = id_of(message.model, message.release)
    for rollout in rollouts:
        member = Rollouts(unit.session).member(rollout.id, message.device)
        if member is None or rollout.model != message.model:
            continue
        if outcome is None or message.assignment_counter < max(1, member.counter):
            unit.publish("rollout", rollout=rollout.id)
            continue
        if _is_about(member, rollout, outcome, release=release, sha256=message.sha256):
            error = " ".join(filter(None, (message.error_code, message.detail)))[:500]
            event = plan.DeviceReported(device=message.device, outcome=outcome, error=error)
            rollout_steps.take(unit, context.settings, rollout, event)


def tick(context: Context) -> int:
    """Take the steps that time alone asks for; returns how many. Call it about once a second."""
    with context.read() as session:
        due = [
            rollout.id
            for rollout in Rollouts(session).in_states(("scheduled", "running"))
            if rollout_steps.is_due(rollout, context.clock())
        ]
    for rollout_id in due:
        with context.unit() as unit:
            rollout = Rollouts(unit.session).get_for_update(rollout_id)
            if rollout_steps.is_due(rollout, unit.now):
                rollout_steps.take(unit, context.settings, rollout, plan.Tick())
    return len(due)


def _start(unit: Unit, context: Context, rollout: Rollout, by: str) -> None:
    rollout_steps.take(unit, context.settings, rollout, plan.Start())
    log.record(unit, actor=by, action="rollout.start", subject=rollout.id, release=rollout.release)


def _member(unit: Unit, rollout: Rollout, position: int, member: Member) -> RolloutDevice:
    return RolloutDevice(
        rollout=rollout.id,
        device=member.device.id,
        position=position,
        state="incompatible" if member.artifact is None else "pending",
        artifact=member.artifact.sha256 if member.artifact else None,
        reason=member.reason,
        updated_at=unit.now,
    )


def _is_about(
    member: RolloutDevice, rollout: Rollout, outcome: Outcome, *, release: str, sha256: str
) -> bool:
    """Whether a report speaks of this rollout's bytes; only a failure may leave the digest out."""
    if sha256:
        return sha256 == member.artifact
    return outcome is not Outcome.COMMITTED and release in {"", rollout.release}
