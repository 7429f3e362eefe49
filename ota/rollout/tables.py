"""The transition tables of a rollout, of its waves, and of a device within it."""

from __future__ import annotations

from enum import Enum
from typing import Final

from fleet.statemachine import Table


class RolloutStatus(str, Enum):
    """Where a rollout stands."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting_approval"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    ABORTED = "aborted"
    ROLLED_BACK = "rolled_back"


class RolloutEvent(str, Enum):
    """What moves a rollout."""

    SUBMIT = "submit"
    APPROVE = "approve"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"
    ABORT = "abort"
    ROLLBACK = "rollback"


class WaveStatus(str, Enum):
    """Where a wave stands."""

    PENDING = "pending"
    RUNNING = "running"
    SOAKING = "soaking"
    GATING = "gating"
    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class WaveEvent(str, Enum):
    """What moves a wave."""

    BEGIN = "begin"
    SETTLE = "settle"
    SOAKED = "soaked"
    CLEAR = "clear"
    FAIL = "fail"
    DOUBT = "doubt"
    RETRY = "retry"
    ACCEPT = "accept"


class DeviceStatus(str, Enum):
    """Where a device stands within a rollout."""

    PENDING = "pending"
    ASSIGNED = "assigned"
    STALE = "stale"
    COMMITTED = "committed"
    FAILED = "failed"
    INCOMPATIBLE = "incompatible"
    RESTORED = "restored"


class DeviceEvent(str, Enum):
    """What moves a device within a rollout."""

    ASSIGN = "assign"
    EXPIRE = "expire"
    COMMIT = "commit"
    FAIL = "fail"
    EXCLUDE = "exclude"
    RESTORE = "restore"


ENDED: Final = frozenset(
    {RolloutStatus.SUCCEEDED, RolloutStatus.ABORTED, RolloutStatus.ROLLED_BACK}
)
"""A rollout that stands here assigns nothing more."""

_R, _RE = RolloutStatus, RolloutEvent
ROLLOUT: Final = Table(
    "rollout",
    initial=_R.DRAFT,
    transitions={
        (_R.DRAFT, _RE.SUBMIT): _R.AWAITING_APPROVAL,
        (_R.DRAFT, _RE.START): _R.RUNNING,
        (_R.DRAFT, _RE.ABORT): _R.ABORTED,
        (_R.AWAITING_APPROVAL, _RE.APPROVE): _R.SCHEDULED,
        (_R.AWAITING_APPROVAL, _RE.ABORT): _R.ABORTED,
        (_R.SCHEDULED, _RE.START): _R.RUNNING,
        (_R.SCHEDULED, _RE.ABORT): _R.ABORTED,
        (_R.RUNNING, _RE.PAUSE): _R.PAUSED,
        (_R.RUNNING, _RE.FINISH): _R.SUCCEEDED,
        (_R.RUNNING, _RE.ABORT): _R.ABORTED,
        (_R.RUNNING, _RE.ROLLBACK): _R.ROLLED_BACK,
        (_R.PAUSED, _RE.RESUME): _R.RUNNING,
        (_R.PAUSED, _RE.ABORT): _R.ABORTED,
        (_R.PAUSED, _RE.ROLLBACK): _R.ROLLED_BACK,
        # What was found bad only afterwards can still be taken back.
        (_R.SUCCEEDED, _RE.ROLLBACK): _R.ROLLED_BACK,
        (_R.ABORTED, _RE.ROLLBACK): _R.ROLLED_BACK,
    },
)

_W, _WE = WaveStatus, WaveEvent
WAVE: Final = Table(
    "wave",
    initial=_W.PENDING,
    transitions={
        (_W.PENDING, _WE.BEGIN): _W.RUNNING,
        (_W.RUNNING, _WE.SETTLE): _W.SOAKING,
        (_W.RUNNING, _WE.FAIL): _W.FAILED,
        (_W.SOAKING, _WE.SOAKED): _W.GATING,
        (_W.SOAKING, _WE.FAIL): _W.FAILED,
        (_W.GATING, _WE.CLEAR): _W.PASSED,
        (_W.GATING, _WE.FAIL): _W.FAILED,
        (_W.GATING, _WE.DOUBT): _W.INCONCLUSIVE,
        # An operator who resumes has looked at what failed, or at what is not known, and accepts it.
        (_W.FAILED, _WE.RETRY): _W.RUNNING,
        (_W.INCONCLUSIVE, _WE.ACCEPT): _W.PASSED,
    },
)

_D, _DE = DeviceStatus, DeviceEvent
DEVICE: Final = Table(
    "device within a rollout",
    initial=_D.PENDING,
    transitions={
        (_D.PENDING, _DE.ASSIGN): _D.ASSIGNED,
        (_D.PENDING, _DE.EXCLUDE): _D.INCOMPATIBLE,
        (_D.ASSIGNED, _DE.COMMIT): _D.COMMITTED,
        (_D.ASSIGNED, _DE.FAIL): _D.FAILED,
        (_D.ASSIGNED, _DE.EXCLUDE): _D.INCOMPATIBLE,
        (_D.ASSIGNED, _DE.EXPIRE): _D.STALE,
        (_D.ASSIGNED, _DE.RESTORE): _D.RESTORED,
        # A silent device that speaks up after all counts from then on.
        (_D.STALE, _DE.COMMIT): _D.COMMITTED,
        (_D.STALE, _DE.FAIL): _D.FAILED,
        (_D.STALE, _DE.EXCLUDE): _D.INCOMPATIBLE,
        (_D.STALE, _DE.RESTORE): _D.RESTORED,
        (_D.COMMITTED, _DE.RESTORE): _D.RESTORED,
        (_D.FAILED, _DE.RESTORE): _D.RESTORED,
    },
)
