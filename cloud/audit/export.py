"""The audit log as a file that anybody can verify, without the cloud.

Rules:
- One JSON document a line: a header with the format and the public key of checkpoints, then each entry and each
  checkpoint in their order, then the end with the number of entries.
- The header's key is a convenience: whoever wants proof pins the key that was handed over some other way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from securesystemslib.signer import Key
from sqlmodel import Session

from cloud.audit import chain, checkpoints
from cloud.audit.chain import BrokenError, Record
from cloud.errors import InputError
from cloud.settings import Settings
from fleet.registry.repositories import Audit
from fleet.registry.tables import AuditCheckpoint, AuditEntry
from ota.signing import key_files

FORMAT = "outrider-audit/1"


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    number: int
    at: float
    actor: str
    action: str
    subject: str
    details: str
    previous_hash: str
    hash: str


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    tenant: str
    exported_at: float
    key: dict[str, Any] | None


class _End(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    entries: int


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    entry: _Entry | None = None
    checkpoint: checkpoints.Point | None = None
    end: _End | None = None


class Export(NamedTuple):
    """An export that is being read.

    Attributes:
        key: the public key that came with it.
        records: its entries and checkpoints; raises `BrokenError` where a line is none.
    """

    tenant: str
    exported_at: float
    key: Key | None
    records: Iterator[Record]


def lines(session: Session, settings: Settings, *, now: float) -> Iterator[str]:
    """The log, line by line."""
    key = checkpoints.trusted(settings)
    yield _dump(
        format=FORMAT, tenant=settings.tenant, exported_at=now,
        key=key_files.public_document(key) if key else None,
    )  # fmt: skip
    repository, count = Audit(session), 0
    for record in chain.merged(repository.all(), repository.checkpoints()):
        if isinstance(record, AuditCheckpoint):
            yield f'{{"checkpoint":{checkpoints.to_json(record).decode()}}}\n'
        else:
            count += 1
            yield _dump(entry={name: getattr(record, name) for name in _Entry.__struct_fields__})
    yield _dump(end={"entries": count})


def read(source: Iterable[bytes]) -> Export:
    """Read an export from its lines.

    Raises:
        InputError: its first line is no header of ours.
        KeyFileError: the header's key is none.
    """
    remaining = iter(source)
    try:
        header = msgspec.json.decode(next(remaining, b""), type=_Header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"expected an export of the audit log, found {error}") from None
    if header.format != FORMAT:
        raise InputError(f"expected an export of format {FORMAT}, found {header.format!r}")
    key = key_files.public_from(header.key, name="the export's key") if header.key else None
    return Export(header.tenant, header.exported_at, key, _records(remaining))


def _records(source: Iterator[bytes]) -> Iterator[Record]:
    number = 0
    decoder = msgspec.json.Decoder(_Line)
    for raw in source:
        try:
            line = decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BrokenError(number + 1, f"the export's line cannot be read: {error}") from None
        if line.entry is not None:
            number = line.entry.number
            yield AuditEntry(**msgspec.structs.asdict(line.entry))
        elif line.checkpoint is not None:
            yield AuditCheckpoint(**msgspec.structs.asdict(line.checkpoint))
        elif line.end is not None:
            if line.end.entries != number:
                raise BrokenError(
                    number + 1, f"it is missing: the export had {line.end.entries} entries"
                )
            return
    raise BrokenError(number + 1, "it is missing: the export ends in the middle")


def _dump(**fields: Any) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"
