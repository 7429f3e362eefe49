"""What happens to the core. Shells (asyncio, simulator) turn the world into these.

Rules:
- `Booted` is the first event, once. Outcomes of commands come back as events, in any order, or never
  (a process that is killed, a power cut); every wait of the core has a deadline.
- A worker is named by the number that the core gave it in `StartWorker`; an event about a worker that
  the core has forgotten is ignored.
"""

from __future__ import annotations

import msgspec

from agent.core.commands import Command
from agent.core.records import Certificate, DeviceRecord, ModelRecord
from agent.serving.port import Figures, SelfTest
from fleet.artifact.manifest import Feature
from fleet.wire.messages import Block, RuntimeInfo
from ota.verify.trust import TrustStore


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events."""


class Booted(Event, frozen=True):
    """The daemon started.

    Attributes:
        wall: the local clock, seconds since the epoch, right or wrong.
        trust: the persisted trust store.
        enrolled: the trust store as it was at enrolment.
        slots: sha256 of what is found in each slot now, ``{model: {slot: digest}}``.
        engines: sha256 of the engine that this device has built and that fits it now, by the artifact's sha256.
        certificate: what the device shows to the broker.
        notes: ``(code, text)`` of what was repaired while reading the disk; each becomes an event.
    """

    wall: float
    trust: TrustStore
    enrolled: TrustStore
    device: DeviceRecord
    models: list[ModelRecord]
    slots: dict[str, dict[str, str]]
    runtimes: list[RuntimeInfo]
    engines: dict[str, str] = {}
    certificate: Certificate = Certificate()
    notes: list[tuple[str, str]] = []


class WallClock(Event, frozen=True):
    """The local clock, told again now and then because somebody may set it."""

    wall: float


class Tick(Event, frozen=True):
    """The deadline came."""


class Connected(Event, frozen=True):
    """The link to the broker stands and is subscribed."""


class Disconnected(Event, frozen=True):
    """The link is gone, or could not be made.

    Attributes:
        refused: somebody answered there, and the connection was not let stand.
    """

    reason: str = ""
    refused: bool = False


class Received(Event, frozen=True):
    """A message of `kind` (last level of its topic; ``broadcast`` for a blob's) arrived."""

    kind: str
    payload: bytes


class CertificateTaken(Event, frozen=True):
    """A new certificate is in use; `unsaved` says why it could not be persisted."""

    certificate: Certificate
    unsaved: str = ""


class RenewalFailed(Event, frozen=True):
    """There is no new certificate: the cloud could not be reached, refused, or gave one that does not hold."""

    code: str
    detail: str


class StoreFailed(Event, frozen=True):
    """A command that persists something failed.

    Attributes:
        code: stable code of the error, e.g. ``disk.full``.
        dropped: that command and what followed it in its list; none of it was carried out.
    """

    code: str
    detail: str
    dropped: list[Command]


class Prepared(Event, frozen=True):
    """Room for a blob is there, with what an earlier attempt left.

    Attributes:
        block_list: the persisted block list, empty when it is still to be fetched.
        bitmap: the persisted bitmap.
    """

    model: str
    sha256: str
    block_list: bytes
    bitmap: bytes


class PrepareFailed(Event, frozen=True):
    """No room, or no disk."""

    model: str
    sha256: str
    code: str
    detail: str


class BlockGot(Event, frozen=True):
    """A block came over HTTPS."""

    model: str
    block: Block


class BlocksFailed(Event, frozen=True):
    """A request over HTTPS came to nothing, or not in full.

    Attributes:
        request: its id.
    """

    model: str
    request: str
    detail: str


class Rebuilt(Event, frozen=True):
    """Of a blob's partial file, `filled_bytes` are there, and its bitmap says which blocks they are."""

    model: str
    sha256: str
    filled_bytes: int


class RebuildFailed(Event, frozen=True):
    """A way of sending less did not lead there; what it named is fetched in another way."""

    model: str
    sha256: str
    code: str
    detail: str


class Staged(Event, frozen=True):
    """The bytes are in their slot and their digest holds; what their manifest says of itself.

    Attributes:
        builds: whether the device has to build what it runs from them.
    """

    model: str
    sha256: str
    manifest_model: str
    manifest_runtime: str
    builds: bool = False


class StageFailed(Event, frozen=True):
    """The bytes are not those, or could not be moved.

    Attributes:
        refused: they are those that were signed, and must not run here; fetching them again is no use.
    """

    model: str
    sha256: str
    code: str
    detail: str
    refused: bool = False


class BuildProgress(Event, frozen=True):
    """How far a build is, 0 to 1."""

    model: str
    sha256: str
    fraction: float
    message: str = ""


class Built(Event, frozen=True):
    """The engine of an artifact is there, and this device has attested it.

    Attributes:
        engine: its sha256.
        detail: what built it, on what, for a person.
    """

    model: str
    sha256: str
    engine: str
    detail: str
    figures: dict[str, float] = {}


class BuildFailed(Event, frozen=True):
    """There is no engine; `retryable` where the reason may pass."""

    model: str
    sha256: str
    code: str
    detail: str
    retryable: bool = False


class EngineReady(Event, frozen=True):
    """The engine that was ordered for twins is there."""

    order: str
    artifact: str
    engine: str
    length_bytes: int
    environment: dict[str, str]
    host_code: bool


class EngineLacking(Event, frozen=True):
    """There is no engine for an order, or its file cannot be read."""

    order: str
    code: str
    detail: str


class EngineRead(Event, frozen=True):
    """One block of an engine."""

    order: str
    engine: str
    index: int
    data: bytes


class WorkerReady(Event, frozen=True):
    """A worker has loaded its artifact."""

    worker: int
    features: list[Feature] = []


class WorkerFailed(Event, frozen=True):
    """A worker could not be started, or a call on it failed."""

    worker: int
    code: str
    detail: str


class SelfTested(Event, frozen=True):
    """The golden vectors have run."""

    worker: int
    result: SelfTest


class Promoted(Event, frozen=True):
    """A worker answers on its model's socket."""

    worker: int
    url: str


class FiguresTaken(Event, frozen=True):
    """What a worker counted since the last time."""

    worker: int
    figures: Figures


class WorkerExited(Event, frozen=True):
    """A worker's process has ended, asked or not."""

    worker: int
    reason: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A buffered message.

    Attributes:
        position: order in the buffer.
        kind: ``reported``, ``event`` or ``telemetry``.
        payload: the message, encoded and not yet sealed; for telemetry one window.
    """

    position: int
    boot_epoch: str
    seq: int
    kind: str
    payload: bytes


class RowsLoaded(Event, frozen=True):
    """Rows after the position `after`, in order; `waiting` rows are in the buffer in all."""

    after: int
    rows: list[Row]
    waiting: int


class Carried(Event, frozen=True):
    """Rows, as ``(boot epoch, seq)``, lie on a medium that is carried to the cloud; their acknowledgement comes later."""

    keys: list[tuple[str, int]]


class BufferTrimmed(Event, frozen=True):
    """The buffer was over its bound: `merged` windows became fewer, `evicted` rows are gone."""

    merged: int
    evicted: int
    damaged: int = 0


class Sensed(Event, frozen=True):
    """The system's sensors, by name with unit: ``temperature_c``, ``memory_used_mib``, ..."""

    figures: dict[str, float]


class Stopping(Event, frozen=True):
    """The daemon was asked to end."""
