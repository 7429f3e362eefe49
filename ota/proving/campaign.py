"""A rebuild campaign: devices of a class report a runtime other than their artifacts were built or proven for.

Rules:
- There is one per hardware class, runtime and version, however many births report it.
- It is raised when the version has stayed for a while, and closes by itself when no device reports it any more.
- A person decides (or the policy does): what was started or dismissed is not raised again.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from fleet.statemachine import Table


class CampaignState(str, Enum):
    """Where a campaign stands."""

    NOTICED = "noticed"
    OPEN = "open"
    STARTED = "started"
    DISMISSED = "dismissed"
    GONE = "gone"


class CampaignTrigger(str, Enum):
    """What moves a campaign."""

    STAYED = "stayed"
    """The version was still reported after a while, and artifacts in use do not fit it."""
    VANISHED = "vanished"
    """No device reports the version any more, or nothing in use is concerned any more."""
    RETURNED = "returned"
    """It is reported again, and concerns artifacts in use."""
    START = "start"
    """Queue the compile jobs."""
    DISMISS = "dismiss"
    """Leave the artifacts as they are."""


_S, _T = CampaignState, CampaignTrigger

CAMPAIGN: Final = Table(
    "rebuild campaign",
    initial=CampaignState.NOTICED,
    transitions={
        (_S.NOTICED, _T.STAYED): _S.OPEN,
        (_S.NOTICED, _T.VANISHED): _S.GONE,
        (_S.OPEN, _T.VANISHED): _S.GONE,
        (_S.OPEN, _T.START): _S.STARTED,
        (_S.OPEN, _T.DISMISS): _S.DISMISSED,
        (_S.GONE, _T.RETURNED): _S.NOTICED,
    },
)
