"""What a daemon says of itself to a person beside it: ``outrider-agent status``."""

from __future__ import annotations

import msgspec


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        serving: what its workers do: ``serving``, ``starting``, ``down``, ...
        assigned: release that the accepted assignment names, empty when none.
    """

    model: str
    state: str
    release: str
    sha256: str
    serving: str
    url: str
    assigned: str
    candidate: str
    previous: str
    progress: float
    error_code: str
    detail: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing new can be installed now, or what is strange about it; what is committed goes on answering.

    Attributes:
        code: ``link.down``, ``link.refused``, ``identity.ended``, ``identity.refused``, ``metadata.expired``,
            ``clock.wrong`` (which holds nothing up by itself).
    """

    code: str
    text: str


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole device.

    Attributes:
        running: whether a daemon answered; false when the disk was read instead.
        trusted_time: seconds since the epoch, never ahead of the cloud's.
        time_confirmed: whether the cloud has told the time since the daemon started.
        certificate_expires: when the device's certificate ends, seconds since the epoch; 0: unknown.
        holds: why nothing new can be installed now; empty when it can.
        buffered: rows that wait for an acknowledgement.
    """

    device: str
    tenant: str
    running: bool
    connected: bool
    hardware_class: str
    agent_version: str
    assignment_counter: int
    trusted_time: float
    buffered: int
    models: list[ModelState]
    figures: dict[str, float] = {}
    time_confirmed: bool = False
    certificate_expires: float = 0.0
    holds: list[Hold] = []
