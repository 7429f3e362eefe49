"""Message types, version 1: what a device and the cloud say to each other.

Rules:
- Every type is a frozen msgspec struct; unknown fields are ignored on reading, so that fields can be
  added; a field is never reused for another meaning.
- Durations and sizes carry their unit in the name; times are seconds since the Unix epoch (float).
- What a device must not lose carries (boot_epoch, seq), unique for the device for ever: `boot_epoch`
  is drawn at random at each start of the agent, `seq` grows by one within it.
- A terminal report (`terminal=True`) for an assignment never regresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from fleet.telemetry.window import Window


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all messages."""


# --- from the device -------------------------------------------------------------------------------


class RuntimeInfo(Message, frozen=True):
    """A runtime that this device can load artifacts with, or why it cannot."""

    name: str
    version: str = ""
    available: bool = True
    reason: str = ""


class ModelStatus(Message, frozen=True):
    """What a device runs, or is about to run, for one model.

    Attributes:
        release, sha256: what answers, or is committed.
        state: where the update of `counter` stands.
        counter: the assignment that `state` is about.
    """

    model: str
    release: str = ""
    sha256: str = ""
    state: str = "idle"
    counter: int = 0
    previous_release: str = ""
    url: str = ""


class Birth(Message, frozen=True):
    """Sent first on each connection; the cloud answers with the current `Desired`.

    Attributes:
        trust: version of each trusted metadata file, for instance ``{"image/root.json": 1}``.
        nonce: random; the answer's trusted time is bound to it.
        assignment_counter, assignment_sha256: of the assignment that the device holds, and its document's
            digest in lower-case hex; 0 and empty where it holds none.
        buffered: rows that wait in the device's buffer for an acknowledgement.
        environment: what engines built here depend on: ``device_name``, ``compute_capability``, ``l4t``,
            ``tensorrt``; empty where no engine can be built.
    """

    device: str
    boot_epoch: str
    agent_version: str
    hardware_class: str
    runtimes: list[RuntimeInfo]
    models: list[ModelStatus]
    trust: dict[str, int]
    nonce: str
    assignment_counter: int = 0
    assignment_sha256: str = ""
    buffered: int = 0
    labels: dict[str, str] = {}
    environment: dict[str, str] = {}


class Status(Message, frozen=True):
    """Presence; ``online=False`` is the connection's will."""

    device: str
    online: bool


class Reported(Message, frozen=True):
    """A step of one model's update on this device.

    Attributes:
        assignment_counter: the assignment that this step works on.
        state: value of `agent.core` update states, e.g. ``fetching`` or ``committed``.
        figures: numbers of the step: golden cosine, bytes fetched, seconds. JSON has no NaN: what is not
            finite arrives as None.
        facts: what the step's figures rest on, in words: runtime, its version, an engine's digest.
        error_code: stable code of what went wrong, empty when nothing did.
    """

    device: str
    boot_epoch: str
    seq: int
    model: str
    release: str
    sha256: str
    assignment_counter: int
    state: str
    at: float
    terminal: bool = False
    progress: float = 0.0
    error_code: str = ""
    detail: str = ""
    figures: Mapping[str, float | None] = {}
    facts: Mapping[str, str] = {}
    url: str = ""


class EventLevel(str, Enum):
    """How much an event matters to a person."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Event(Message, frozen=True):
    """Something that happened on a device and that an operator may want to read."""

    device: str
    boot_epoch: str
    seq: int
    at: float
    code: str
    text: str
    level: EventLevel = EventLevel.INFO
    model: str = ""
    release: str = ""
    figures: Mapping[str, float | None] = {}


class TelemetryBatch(Message, frozen=True):
    """Windows in the order of their sequence numbers; each keeps the epoch in which it was closed."""

    device: str
    windows: list[Window]


class BlocksWanted(Message, frozen=True, tag_field="op", tag="blocks"):
    """Ask for blocks of a blob.

    Attributes:
        digest: sha256 of the blob, lower-case hex.
        block_size_bytes: by which the bitmap counts; 0 asks for a whole block list as one block.
        first: index of the block that the first bit of `bitmap` stands for.
        bitmap: a set bit (least significant first) asks for that block.
        limit: send at most this many of them.
        listening: the device hears the blob's broadcast: these blocks may come there, all of them.
        mark: number of the newest mark that it heard there; 0: none yet.
    """

    id: str
    digest: str
    block_size_bytes: int
    first: int
    bitmap: bytes
    limit: int
    listening: bool = False
    mark: int = 0


class MetadataWanted(Message, frozen=True, tag_field="op", tag="metadata"):
    """Ask for the current `Desired` again, with trusted time bound to `nonce`."""

    id: str
    nonce: str


class EngineOffer(Message, frozen=True, tag_field="op", tag="engine"):
    """What a builder attests of an engine that it was ordered to build; its envelope's signature is the attestation.

    Attributes:
        id: of the order.
        artifact: sha256 of the artifact that it was built from.
        engine: sha256 of the engine.
        environment: what the engine depends on: ``device_name``, ``compute_capability``, ``l4t``, ``tensorrt``, ...
        host_code: whether it embeds code for the host's processor.
    """

    id: str
    artifact: str
    engine: str
    length_bytes: int
    environment: Mapping[str, str]
    host_code: bool


class EngineFailure(Message, frozen=True, tag_field="op", tag="engine_failed"):
    """Why a builder has no engine for an order."""

    id: str
    code: str
    text: str


class EngineBlock(Message, frozen=True, tag_field="op", tag="engine_block"):
    """One block of an engine; proved by the engine's digest when all are there."""

    id: str
    engine: str
    index: int
    data: bytes


class CertificateWanted(Message, frozen=True, tag_field="op", tag="certificate"):
    """Ask for a new certificate for the key that signs this; over MQTT, or in the body of ``POST /renew``.

    Attributes:
        csr_pem: certificate request (PKCS #10, PEM) for that key.
        nonce: the answer bears it, and trusted time is bound to it.
    """

    csr_pem: str
    nonce: str


Request = (
    BlocksWanted | MetadataWanted | CertificateWanted | EngineOffer | EngineFailure | EngineBlock
)


# --- to the device ---------------------------------------------------------------------------------


class Desired(Message, frozen=True):
    """All metadata that a device needs to verify what it should run.

    Attributes:
        nonce: the nonce of the birth or request that this answers; empty when pushed unasked.
        now: the cloud's time, trusted only when `nonce` answers the device's own.
        image: TUF metadata of the image repository, file name to bytes.
        director: TUF metadata of the director, file name to bytes; ``targets.json`` is the assignment.
        authorities_sha256: of the CAs (PEM) that the fleet's certificates come from, lower-case hex; a device that
            trusts others asks for a certificate. Empty tells nothing.
    """

    device: str
    now: float
    image: dict[str, bytes]
    director: dict[str, bytes]
    nonce: str = ""
    authorities_sha256: str = ""


class CertificateGiven(Message, frozen=True):
    """A device's new certificate, and whom it should trust from now on.

    Attributes:
        nonce: of the request.
        now: the cloud's time, trusted because of the nonce; the certificate counts from then.
        authorities_pem: the CAs that vouch for the fleet's servers and devices, the present one first.
    """

    device: str
    nonce: str
    now: float
    certificate_pem: str
    authorities_pem: str


class Refusal(Message, frozen=True):
    """The answer to a request that cannot be served."""

    id: str
    code: str
    text: str
    retryable: bool = False


class Block(Message, frozen=True):
    """One block of a blob; proved by the signed block list, so it is not signed itself.

    Attributes:
        index: below 0 in a broadcast: a mark, number ``-index``; whoever listens says what it still misses.
        unit: bytes of the blocks by which `index` counts; 0: those of the blob's block list.
    """

    digest: str
    index: int
    data: bytes
    unit: int = 0


class Ack(Message, frozen=True):
    """What the cloud has committed: sequence numbers by boot epoch. Sent only after its commit."""

    device: str
    acked: dict[str, list[int]]


class CommandOp(str, Enum):
    """What the cloud may ask a device to do at once."""

    REBIRTH = "rebirth"
    BUILD = "build"
    UPLOAD = "upload"


class Command(Message, frozen=True):
    """An order outside the assignment; `counter` of the envelope grows strictly per device.

    Attributes:
        artifact: for ``build``: sha256 of the artifact, which the device has from its assignment.
        engine: for ``upload``: sha256 of the engine that it attested.
        first, bitmap: for ``upload``: the blocks that are wanted, see `BlocksWanted`.
        block_size_bytes: for ``upload``.
    """

    id: str
    op: CommandOp
    artifact: str = ""
    engine: str = ""
    first: int = 0
    bitmap: bytes = b""
    block_size_bytes: int = 0
