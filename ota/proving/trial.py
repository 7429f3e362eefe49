"""A trial: one artifact that the compiling host could not run, tried on one proving device.

Rules:
- A device has one trial at a time, so that nothing disturbs what is measured; others of it wait.
- Only what the device itself signed ends a trial well or badly; people, rollouts and time can only call it off.
- What has ended is never taken up again: another try is another trial.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from fleet.statemachine import Table


class TrialState(str, Enum):
    """Where a trial stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PROVEN = "proven"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class TrialTrigger(str, Enum):
    """What moves a trial."""

    BEGUN = "begun"
    """The device is free: the candidate is signed for it and assigned."""
    MET = "met"
    """The device has signed figures that meet every limit."""
    MISSED = "missed"
    """The device has signed that it failed, or figures that miss a limit."""
    CALLED_OFF = "called_off"
    """A person, a rollout or the end of the device's naming called it off."""
    TIMED_OUT = "timed_out"
    """The device did not answer in time."""


OPEN: Final = frozenset({TrialState.QUEUED, TrialState.RUNNING})

_S, _T = TrialState, TrialTrigger

TRIAL: Final = Table(
    "trial",
    initial=TrialState.QUEUED,
    transitions={
        (_S.QUEUED, _T.BEGUN): _S.RUNNING,
        (_S.RUNNING, _T.MET): _S.PROVEN,
        (_S.RUNNING, _T.MISSED): _S.REFUSED,
        (_S.QUEUED, _T.CALLED_OFF): _S.CANCELLED,
        (_S.RUNNING, _T.CALLED_OFF): _S.CANCELLED,
        (_S.QUEUED, _T.TIMED_OUT): _S.EXPIRED,
        (_S.RUNNING, _T.TIMED_OUT): _S.EXPIRED,
    },
)
