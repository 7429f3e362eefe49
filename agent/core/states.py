"""The update of one model on one device: its states and the table of its transitions.

Rules:
- One machine per model. Heavy states (`HEAVY`) are under a device-wide lock: two versions of one
  model are in memory at a time, never of two.
- Every transition is persisted before its effect.
- `waiting`, `fetching` and `staged` are resumed after a restart; what a restart interrupts later goes
  back to `staged` with `REBOOTED` and is tried again, until the store counter says that it loops.
- An engine that this device built for itself and that no longer fits it (its system was upgraded) is built
  anew: `OUTDATED` leads from a settled state to `staged`, whose bytes are there.
- A settled state (`SETTLED`) ends one assignment; a newer assignment starts from it, and replaces one
  that is under way: at once while nothing runs yet, through `rolling_back` where the candidate answers.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from fleet.statemachine import Table


class State(str, Enum):
    """Where the update of a model stands."""

    IDLE = "idle"
    WAITING = "waiting"
    FETCHING = "fetching"
    STAGED = "staged"
    BUILDING = "building"
    SELF_TESTING = "self_testing"
    ACTIVATING = "activating"
    PROBATION = "probation"
    COMMITTED = "committed"
    MEASURED = "measured"
    ROLLING_BACK = "rolling_back"
    FAILED = "failed"
    INCOMPATIBLE = "incompatible"
    REFUSED = "refused"


class Trigger(str, Enum):
    """What moves the machine."""

    ASSIGNED = "assigned"
    """The signed assignment names other bytes than those that are active or under way."""
    CONFIRMED = "confirmed"
    """The signed assignment names the bytes that are active."""
    WITHDRAWN = "withdrawn"
    """The signed assignment no longer names the model."""
    FETCH = "fetch"
    """Connected, with room on the disk."""
    POSTPONED = "postponed"
    """The disk is full or the blob cannot be had now; tried again later."""
    STORED = "stored"
    """All bytes are in the spare slot and their digest holds."""
    BUILD = "build"
    """The device-wide lock is free, and the device makes the engine itself."""
    BUILT = "built"
    """The engine is there, and attested by this device."""
    TEST = "test"
    """The device-wide lock is free."""
    PASSED = "passed"
    """The golden vectors came out as they should."""
    MEASURED = "measured"
    """They did, and the assignment asks for the figures alone: the candidate never answers."""
    ACTIVATED = "activated"
    """The candidate answers on the model's socket."""
    PROVED = "proved"
    """Enough good answers."""
    DISPROVED = "disproved"
    """Anything went wrong with the candidate, or it was superseded while it ran."""
    REBOOTED = "rebooted"
    """The daemon started and found a candidate that was being built, or that ran, when it ended."""
    OUTDATED = "outdated"
    """The daemon started and found an engine of its own making that no longer fits this device."""
    RESTORED = "restored"
    """What was active before is active again, or nothing was."""
    UNSUITABLE = "unsuitable"
    """This device's hardware or runtimes cannot run the artifact."""
    REJECTED = "rejected"
    """The artifact is not what its metadata says, or its activation came too late."""


SETTLED: Final = frozenset(
    {
        State.IDLE,
        State.COMMITTED,
        State.MEASURED,
        State.FAILED,
        State.INCOMPATIBLE,
        State.REFUSED,
    }
)
TERMINAL: Final = SETTLED - {State.IDLE}
HEAVY: Final = frozenset(
    {State.BUILDING, State.SELF_TESTING, State.ACTIVATING, State.PROBATION, State.ROLLING_BACK}
)
LIGHT: Final = frozenset({State.WAITING, State.FETCHING, State.STAGED})

_S, _T = State, Trigger

TABLE: Final = Table(
    "model update",
    initial=State.IDLE,
    transitions={
        **{(state, _T.ASSIGNED): _S.WAITING for state in State if state in SETTLED},
        **{(state, _T.CONFIRMED): _S.COMMITTED for state in State if state in SETTLED},
        **{(state, _T.WITHDRAWN): _S.IDLE for state in State if state in TERMINAL},
        (_S.WAITING, _T.FETCH): _S.FETCHING,
        (_S.WAITING, _T.STORED): _S.STAGED,
        (_S.WAITING, _T.UNSUITABLE): _S.INCOMPATIBLE,
        (_S.FETCHING, _T.POSTPONED): _S.WAITING,
        (_S.FETCHING, _T.STORED): _S.STAGED,
        (_S.STAGED, _T.BUILD): _S.BUILDING,
        (_S.STAGED, _T.TEST): _S.SELF_TESTING,
        (_S.STAGED, _T.POSTPONED): _S.WAITING,
        **{(state, _T.REJECTED): _S.REFUSED for state in State if state in LIGHT},
        **{(state, _T.ASSIGNED): _S.WAITING for state in State if state in LIGHT},
        **{(state, _T.CONFIRMED): _S.COMMITTED for state in State if state in LIGHT},
        **{(state, _T.WITHDRAWN): _S.IDLE for state in State if state in LIGHT},
        **{(state, _T.OUTDATED): _S.STAGED for state in State if state in TERMINAL},
        (_S.BUILDING, _T.BUILT): _S.SELF_TESTING,
        (_S.BUILDING, _T.POSTPONED): _S.STAGED,
        (_S.SELF_TESTING, _T.PASSED): _S.ACTIVATING,
        (_S.SELF_TESTING, _T.MEASURED): _S.MEASURED,
        (_S.ACTIVATING, _T.ACTIVATED): _S.PROBATION,
        (_S.PROBATION, _T.PROVED): _S.COMMITTED,
        **{(state, _T.DISPROVED): _S.ROLLING_BACK for state in State if state in LIGHT},
        (_S.BUILDING, _T.DISPROVED): _S.ROLLING_BACK,
        (_S.SELF_TESTING, _T.DISPROVED): _S.ROLLING_BACK,
        (_S.ACTIVATING, _T.DISPROVED): _S.ROLLING_BACK,
        (_S.PROBATION, _T.DISPROVED): _S.ROLLING_BACK,
        (_S.BUILDING, _T.REBOOTED): _S.STAGED,
        (_S.SELF_TESTING, _T.REBOOTED): _S.STAGED,
        (_S.ACTIVATING, _T.REBOOTED): _S.STAGED,
        (_S.PROBATION, _T.REBOOTED): _S.STAGED,
        (_S.ROLLING_BACK, _T.RESTORED): _S.FAILED,
    },
)
