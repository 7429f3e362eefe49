"""Signing the audit log's head, and looking at what was written since.

Rules:
- A checkpoint is made soon after an entry (`make`, about every ten seconds while something happens).
- The newest one is also kept in ``audit/checkpoint.json`` of the data directory, outside the registry:
  whoever cuts the registry's log off, checkpoints and all, is found by it.
- While the registry lacks that checkpoint none is made: first somebody looks at why (`outrider audit verify`),
  and says that it was a restored backup (`outrider keys restore`).
"""

from __future__ import annotations

import json
import logging

import msgspec
from securesystemslib.signer import Key
from sqlmodel import Session

from cloud.audit import chain
from cloud.audit.chain import Verdict
from cloud.context import Context, Unit
from cloud.settings import Settings
from fleet.registry.repositories import Audit
from fleet.registry.tables import AuditCheckpoint
from ota.errors import KeyFileError
from ota.signing import key_files, keys, secret_files

EVERY_S = 10.0
_log = logging.getLogger(__name__)


class Point(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A checkpoint as JSON; `AuditCheckpoint` tells the fields."""

    serial: int
    number: int
    at: float
    head: str
    next_key: str = ""
    keyid: str
    signature: str


def make(context: Context) -> bool:
    """Sign the head where it has moved; whether it did.

    Raises:
        KeyFileError: the key is missing.
        SigningError: it does not sign.
    """
    with context.read() as session:
        newest, last = Audit(session).newest_checkpoint(), Audit(session).newest(1)
        known = anchor(context.settings)
        if not last or (newest is not None and newest.number == last[0].number):
            return False
        if known is not None and not _has(session, known):
            _log.error(
                "the audit log lacks a checkpoint that was made: run `outrider audit verify`"
            )
            return False
    with context.unit() as unit:
        made = sign(unit, context.settings)
    keep(context.settings, made)
    return True


def sign(unit: Unit, settings: Settings, *, next_key: Key | None = None) -> AuditCheckpoint:
    """Add a checkpoint over the newest entry; `keep` it after the commit.

    Raises:
        KeyFileError: the key is missing.
        SigningError: it does not sign.
    """
    signer = keys.audit_signer(settings.data)
    repository = Audit(unit.session)
    last, before = repository.last_for_append(), repository.newest_checkpoint()
    if last is None:
        raise AssertionError("a log with a repository has entries")
    point = AuditCheckpoint(
        serial=before.serial + 1 if before else 1,
        number=last.number,
        at=unit.now,
        head=last.hash,
        next_key=chain.canonical(key_files.public_document(next_key)) if next_key else "",
        keyid=signer.public_key.keyid,
        signature="",
    )
    point.signature = signer.sign(chain.payload(point)).signature
    repository.add_checkpoint(point)
    return point


def keep(settings: Settings, point: AuditCheckpoint) -> None:
    """Keep the newest checkpoint outside the registry."""
    secret_files.write(settings.path("audit", "checkpoint.json"), to_json(point) + b"\n")


def forget(settings: Settings) -> None:
    """Keep none: the registry was restored, and what it lacks is said in its log."""
    settings.path("audit", "checkpoint.json").unlink(missing_ok=True)


def anchor(settings: Settings) -> AuditCheckpoint | None:
    """The checkpoint that is kept outside the registry. Raises KeyFileError when it is damaged."""
    path = settings.path("audit", "checkpoint.json")
    if not path.exists():
        return None
    try:
        return from_json(key_files.read_secret(path, what="the newest checkpoint"))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise KeyFileError(
            f"{path}: expected the newest checkpoint, found {error}; run `outrider audit verify`, "
            f"and delete the file when the log holds"
        ) from None


def verify_all(session: Session, settings: Settings) -> Verdict:
    """Walk the whole log."""
    repository = Audit(session)
    return chain.verify(
        chain.merged(repository.all(), repository.checkpoints()),
        key=trusted(settings),
        known=anchor(settings),
    )


def verify_tail(session: Session, settings: Settings) -> Verdict:
    """Walk what was written since the newest checkpoint; it vouches for the rest."""
    repository = Audit(session)
    point, known, key = repository.newest_checkpoint(), anchor(settings), trusted(settings)
    if known is not None and not _has(session, known):
        reason = f"checkpoint {known.serial} over {known.number} entries is known and is missing"
        return Verdict(known.number, known.number, known.head, reason)
    if point is None:
        return chain.verify(repository.all())
    entry = repository.entry(point.number)
    if entry is None or entry.hash != point.head or chain.hash_of(entry) != point.head:
        reason = f"checkpoint {point.serial} was made of another entry"
        return Verdict(point.number, point.number, point.head, reason)
    if key is not None and not (point.keyid == key.keyid and chain.holds(point, key)):
        reason = f"checkpoint {point.serial} is not signed by this cloud's key"
        return Verdict(point.number, point.number, point.head, reason)
    tail = chain.verify(repository.all(above=point.number), start=(point.number, point.head))
    return tail._replace(signed=point.number, signed_at=point.at)


def trusted(settings: Settings) -> Key | None:
    """The key that signs checkpoints now; None where it is lost."""
    try:
        return keys.audit_signer(settings.data).public_key
    except KeyFileError:
        return None


def to_json(point: AuditCheckpoint) -> bytes:
    """A checkpoint as JSON."""
    return json.dumps({name: getattr(point, name) for name in Point.__struct_fields__}).encode()


def from_json(data: bytes) -> AuditCheckpoint:
    """A checkpoint out of JSON. Raises msgspec.DecodeError."""
    return AuditCheckpoint(**msgspec.structs.asdict(msgspec.json.decode(data, type=Point)))


def _has(session: Session, known: AuditCheckpoint) -> bool:
    row = Audit(session).checkpoint(known.serial)
    return row is not None and row.signature == known.signature
