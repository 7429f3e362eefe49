"""What the core asks of its shell.

Rules:
- A list is carried out in its order. Those of `PERSISTING` are done before the next one begins; when
  one fails, the rest of the list is dropped and handed back with `StoreFailed`.
- `Append` and `Forget` are done in order too, and never fail: the buffer mends itself and says what it lost.
- The others are started in order and answer with an event later. Commands on one worker are carried out
  one after the other.
"""

from __future__ import annotations

import msgspec

from agent.core.records import DeviceRecord, ModelRecord
from fleet.wire.messages import BlocksWanted
from ota.metadata.release import Way
from ota.verify.trust import TrustStore


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all commands."""


# --- what persists -----------------------------------------------------------------------------------


class SaveModel(Command, frozen=True):
    """Persist one model's record."""

    record: ModelRecord


class SaveTrust(Command, frozen=True):
    """Persist the trust store."""

    store: TrustStore


class SaveDevice(Command, frozen=True):
    """Persist the device's record."""

    record: DeviceRecord


class WriteBlock(Command, frozen=True):
    """Write fetched bytes into the partial file of a blob."""

    model: str
    sha256: str
    offset: int
    data: bytes


class SaveBitmap(Command, frozen=True):
    """Make the blocks written so far durable, then persist which they are."""

    model: str
    sha256: str
    block_list: bytes
    bitmap: bytes


PERSISTING = (SaveModel, SaveTrust, SaveDevice, WriteBlock, SaveBitmap)


class Append(Command, frozen=True):
    """Put a message into the buffer; see `agent.core.events.Row`."""

    boot_epoch: str
    seq: int
    kind: str
    payload: bytes


class Forget(Command, frozen=True):
    """Delete acknowledged rows, ``(boot epoch, seq)``."""

    keys: list[tuple[str, int]]


# --- what answers ------------------------------------------------------------------------------------


class LoadRows(Command, frozen=True):
    """Rows after `after`, at most `limit`; they count as sent and are never merged. Answers `RowsLoaded`."""

    after: int
    limit: int


class Publish(Command, frozen=True):
    """Send a payload under ``up/{kind}``; lost when the link is down."""

    kind: str
    payload: bytes


class Prepare(Command, frozen=True):
    """Make room for a blob. Answers `Prepared` or `PrepareFailed`."""

    model: str
    sha256: str
    length_bytes: int


class Rebuild(Command, frozen=True):
    """Fill a blob's partial file by a way that was fetched. Answers `Rebuilt` or `RebuildFailed`.

    Attributes:
        slots: sha256 of what each of the model's slots holds, as it was hashed.
    """

    model: str
    sha256: str
    length_bytes: int
    block_size_bytes: int
    way: Way
    slots: dict[str, str]


class Stage(Command, frozen=True):
    """Hash the fetched blob and move it into a slot. Answers `Staged` or `StageFailed`.

    Attributes:
        fetched: false when the slot is expected to hold the bytes already.
        attested_by: public keys (PEM), one of which must have signed the artifact's attestation.
    """

    model: str
    sha256: str
    length_bytes: int
    slot: str
    attested_by: list[str]
    fetched: bool = True


class Build(Command, frozen=True):
    """Make and attest the engine of the artifact in a slot. Answers `Built` or `BuildFailed`, `BuildProgress` before."""

    model: str
    sha256: str
    length_bytes: int
    slot: str


class CancelBuild(Command, frozen=True):
    """End the model's build, where one is under way; nothing answers."""

    model: str


class BuildForTwins(Command, frozen=True):
    """Build the engine of the artifact in a slot, or find it. Answers `EngineReady` or `EngineLacking`."""

    order: str
    model: str
    sha256: str
    length_bytes: int
    slot: str


class ReadEngine(Command, frozen=True):
    """Read blocks of an engine. Answers `EngineRead` for each, or `EngineLacking`."""

    order: str
    engine: str
    indices: list[int]
    block_size_bytes: int


class GetBlocks(Command, frozen=True):
    """Fetch blocks over HTTPS. Answers `BlockGot` for each, or `BlocksFailed`."""

    model: str
    wanted: BlocksWanted


class Listen(Command, frozen=True):
    """Hear a blob's broadcast, or hear it no more; lost with the link. Answers with `Received`."""

    sha256: str
    on: bool


class Discard(Command, frozen=True):
    """Delete partial downloads other than these."""

    keep: list[str]


class StartWorker(Command, frozen=True):
    """Start a process and load a slot in it. Answers `WorkerReady` or `WorkerFailed`.

    Attributes:
        engine: sha256 of the engine that this device built from the slot; empty: the slot itself is loaded.
    """

    worker: int
    model: str
    release: str
    sha256: str
    length_bytes: int
    slot: str
    engine: str = ""


class TestWorker(Command, frozen=True):
    """Run the golden vectors. Answers `SelfTested` or `WorkerFailed`."""

    worker: int


class Promote(Command, frozen=True):
    """Hand the model's listening socket over. Answers `Promoted` or `WorkerFailed`."""

    worker: int
    model: str


class Drain(Command, frozen=True):
    """Tell a worker to stop accepting and to finish what it has."""

    worker: int


class TakeFigures(Command, frozen=True):
    """Answers `FiguresTaken` or `WorkerFailed`."""

    worker: int


class TakeCertificate(Command, frozen=True):
    """Check a certificate, use it, persist it, reconnect. Answers `CertificateTaken` or `RenewalFailed`."""

    certificate_pem: str
    authorities_pem: str
    issued: float


class AskForCertificate(Command, frozen=True):
    """Send a sealed request over HTTPS. Answers `Received` for each message in the answer, or `RenewalFailed`."""

    sealed: bytes


class StopWorker(Command, frozen=True):
    """End a worker after what it was asked before. Answers `WorkerExited`."""

    worker: int


class Sense(Command, frozen=True):
    """Read the system's sensors. Answers `Sensed`."""


class Log(Command, frozen=True):
    """A line for whoever reads the device's log."""

    level: str
    code: str
    text: str
    fields: dict[str, str] = {}
