"""What the core remembers across restarts, as versioned structs.

Rules:
- A record is saved before the effect that it announces; what is not in a record is lost by a power cut.
- A digest in a record comes from verified metadata, never from a file that was found.
"""

from __future__ import annotations

import msgspec

from agent.core.states import State

SCHEMA = 1
SLOTS = ("a", "b")


class SlotContent(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that verified metadata describes, and the slot that holds it.

    Attributes:
        slot: ``a`` or ``b``; empty while the bytes are still to be fetched.
        builds: whether this device makes the engine that runs itself, from the artifact's ONNX model.
        engine: sha256 of the engine that it made and attested; empty while there is none.
        activate_before: trusted time after which it must not be activated any more; 0 is never.
        trial: it is measured for the cloud and never activated.
    """

    release: str
    sha256: str
    length_bytes: int
    runtime: str = ""
    activate_before: float = 0.0
    slot: str = ""
    trial: bool = False
    builds: bool = False
    engine: str = ""


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model's update machine.

    Attributes:
        counter: the assignment that the record works on, or that it settled.
        stores: how often heavy states were saved since this assignment began; breaks reboot loops.
        active: what is committed; it answers unless a candidate is on probation.
        candidate: what is under way.
        previous: what was active before, as long as its slot still holds it.
        settled_counter, settled_as: the last assignment that was reported as ended, and how; such a
            report never regresses.
        figures, facts: of the last step that had any; told again with the end, so that a restart
            before it was heard does not lose them.
    """

    model: str
    schema: int = SCHEMA
    state: State = State.IDLE
    counter: int = 0
    stores: int = 0
    active: SlotContent | None = None
    candidate: SlotContent | None = None
    previous: SlotContent | None = None
    settled_counter: int = 0
    settled_as: str = ""
    error_code: str = ""
    detail: str = ""
    figures: dict[str, float] = {}
    facts: dict[str, str] = {}


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The device's certificate, as far as it decides anything.

    Attributes:
        issued, expires: by the cloud's time, seconds since the epoch; 0 where nothing is known of one.
        authorities_sha256: of the CAs (PEM) that the device trusts.
        request_pem: the request for another one, for the same key.
    """

    issued: float = 0.0
    expires: float = 0.0
    authorities_sha256: str = ""
    request_pem: str = ""


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What concerns the whole device.

    Attributes:
        command_counter: counter of the last command that was obeyed.
        starts: how often the daemon started.
    """

    schema: int = SCHEMA
    command_counter: int = 0
    starts: int = 0
