"""The transition tables of a compile job and of the units of work that it is cut into.

Rules:
- The units carry the truth; where a job stands follows from where its units stand (`state_of_job`).
- `done` is left again only by an order to try anew what was rejected.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from fleet.statemachine import Table


class UnitState(str, Enum):
    """Where a unit of work stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SET_ASIDE = "set_aside"
    CANCELLED = "cancelled"


class UnitEvent(str, Enum):
    """What moves a unit of work."""

    BEGIN = "begin"
    HAND_BACK = "hand_back"
    LOSE = "lose"
    GIVE_UP = "give_up"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    RETRY = "retry"


class JobState(str, Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobEvent(str, Enum):
    """What moves a job: what became of its units together."""

    BEGIN = "begin"
    WAIT = "wait"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"
    RETRY = "retry"


_U, _UE = UnitState, UnitEvent
UNIT: Final = Table(
    "unit of work",
    initial=_U.QUEUED,
    transitions={
        (_U.QUEUED, _UE.BEGIN): _U.RUNNING,
        (_U.QUEUED, _UE.GIVE_UP): _U.SET_ASIDE,
        (_U.QUEUED, _UE.CANCEL): _U.CANCELLED,
        # What a worker that had been given up hands in after all.
        (_U.QUEUED, _UE.FINISH): _U.DONE,
        (_U.QUEUED, _UE.FAIL): _U.FAILED,
        (_U.RUNNING, _UE.HAND_BACK): _U.QUEUED,
        (_U.RUNNING, _UE.LOSE): _U.QUEUED,
        (_U.RUNNING, _UE.GIVE_UP): _U.SET_ASIDE,
        (_U.RUNNING, _UE.FINISH): _U.DONE,
        (_U.RUNNING, _UE.FAIL): _U.FAILED,
        (_U.RUNNING, _UE.CANCEL): _U.CANCELLED,
        (_U.DONE, _UE.RETRY): _U.QUEUED,
        (_U.FAILED, _UE.RETRY): _U.QUEUED,
        (_U.SET_ASIDE, _UE.RETRY): _U.QUEUED,
        (_U.CANCELLED, _UE.RETRY): _U.QUEUED,
    },
)

_J, _JE = JobState, JobEvent
JOB: Final = Table(
    "compile job",
    initial=_J.QUEUED,
    transitions={
        (_J.QUEUED, _JE.BEGIN): _J.RUNNING,
        (_J.QUEUED, _JE.FINISH): _J.DONE,
        (_J.QUEUED, _JE.FAIL): _J.FAILED,
        (_J.QUEUED, _JE.CANCEL): _J.CANCELLED,
        (_J.RUNNING, _JE.WAIT): _J.QUEUED,
        (_J.RUNNING, _JE.FINISH): _J.DONE,
        (_J.RUNNING, _JE.FAIL): _J.FAILED,
        (_J.RUNNING, _JE.CANCEL): _J.CANCELLED,
        (_J.DONE, _JE.RETRY): _J.QUEUED,
        (_J.FAILED, _JE.RETRY): _J.QUEUED,
        (_J.CANCELLED, _JE.RETRY): _J.QUEUED,
    },
)

OPEN: Final = frozenset({UnitState.QUEUED, UnitState.RUNNING})
"""A unit that stands here has work left to do."""

_EVENT: Final = {
    JobState.RUNNING: JobEvent.BEGIN,
    JobState.QUEUED: JobEvent.WAIT,
    JobState.DONE: JobEvent.FINISH,
    JobState.FAILED: JobEvent.FAIL,
    JobState.CANCELLED: JobEvent.CANCEL,
}


def state_of_job(units: Sequence[UnitState]) -> JobState:
    """Where a job stands whose units stand in `units`."""
    found = set(units)
    if UnitState.RUNNING in found:
        return JobState.RUNNING
    if UnitState.QUEUED in found:
        return JobState.QUEUED
    if found & {UnitState.FAILED, UnitState.SET_ASIDE}:
        return JobState.FAILED
    return JobState.CANCELLED if UnitState.CANCELLED in found else JobState.DONE


def event_towards(state: JobState) -> JobEvent:
    """The event that leads an open job to `state`."""
    return _EVENT[state]
