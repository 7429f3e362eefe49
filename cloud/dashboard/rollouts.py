"""What the rollout page works out of its view: orders that fit, each device's progress, the gate."""

from __future__ import annotations

import msgspec

from cloud.services.views.rollouts import MemberLine, RolloutLine, RolloutView, WaveLine
from ota.rollout import plan
from ota.rollout.plan import RolloutSpec
from ota.rollout.tables import ROLLOUT, RolloutEvent, RolloutStatus

LIVE = ("running", "paused")
ORDERS = ("start", "resume", "pause", "rollback", "abort")
"""In the order in which their buttons stand."""

_STEPS = ("waiting", "fetching", "staged", "self_testing", "activating", "probation", "committed")
_ENDED = frozenset({"committed", "failed", "restored"})


def is_live(line: RolloutLine) -> bool:
    """Whether it can still move by itself or be resumed."""
    return line.state in LIVE


def able(line: RolloutLine) -> int:
    """Devices in the denominator: those that cannot run the release are in none."""
    return sum(line.counts.values()) - line.counts.get("incompatible", 0)


def orders_for(line: RolloutLine) -> tuple[str, ...]:
    """What an operator may order now."""
    status = RolloutStatus(line.state)
    return tuple(order for order in ORDERS if ROLLOUT.allows(status, RolloutEvent(order)))


def failures_allowed(view: RolloutView) -> int:
    """The number of failed devices at which the hard gate pauses."""
    return plan.failures_allowed(msgspec.convert(view.spec, RolloutSpec), able(view.line))


def failed(view: RolloutView) -> int:
    """How many devices have failed, those that were restored since included."""
    return len({step.text.partition(":")[0] for step in view.steps if step.code == "device.failed"})


def soak_ends_at(view: RolloutView, wave: WaveLine) -> float | None:
    """When a wave that is being watched comes to its gate, Unix time."""
    if wave.status != "soaking" or view.line.state != RolloutStatus.RUNNING.value:
        return None
    return wave.settled_at + msgspec.convert(view.spec, RolloutSpec).soak_s


def progress(member: MemberLine) -> float:
    """How far an update is, 0 to 1: fetching takes the first half, each later step its part of the rest."""
    if member.state in _ENDED:
        return 1.0
    if member.state != "assigned" or member.update_state not in _STEPS:
        return 0.0
    if member.update_state == "committed":  # of the release before; this one was not begun
        return 0.0
    if member.update_state == "fetching":
        return 0.5 * member.progress
    step = _STEPS.index(member.update_state)
    return 0.5 + 0.5 * (step - 1) / (len(_STEPS) - 2) if step else 0.0
