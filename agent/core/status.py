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


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole device.

    Attributes:
        running: whether a daemon answered; false when the disk was read instead.
        trusted_time: seconds since the epoch, never ahead of the cloud's.
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
