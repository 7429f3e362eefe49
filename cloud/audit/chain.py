"""What holds an audit log together, and the walk that finds the first place where it does not.

Rules:
- ``hash = sha256(canonical JSON of every other field)``, and each entry holds the hash of the one before
  it; the first holds 64 zeros. Changing, removing or inserting an entry breaks every later hash.
- A checkpoint is a signature over the hash of an entry, and so over every entry up to it. Whoever rewrites
  the log, or cuts its end off, would have to sign the checkpoints anew.
- A checkpoint may hand over to another key (`next_key`). What a key signs covers what came before it too:
  checkpoints under keys from before the trusted one need only fit the chain.
- A log whose checkpoints are all of other keys than the trusted one is broken from its first entry on.
- Pure: rows in, a verdict out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from securesystemslib.signer import Key, Signature

from fleet.registry.tables import AuditCheckpoint, AuditEntry
from ota.errors import KeyFileError
from ota.signing import key_files

GENESIS = "0" * 64
FORMAT = "outrider-audit-checkpoint/1"
Record = AuditEntry | AuditCheckpoint


class Verdict(NamedTuple):
    """Whether the chain holds.

    Attributes:
        entries: how many entries were looked at.
        broken_at: number of the first entry that does not hold or is missing; 0 when all do.
        head: hash of the last entry that holds.
        reason: what is wrong there.
        signed: number of the newest entry that a checkpoint of a trusted key covers; 0: none.
        signed_at: when that checkpoint was made, seconds since the epoch.
    """

    entries: int
    broken_at: int
    head: str
    reason: str = ""
    signed: int = 0
    signed_at: float = 0.0

    @property
    def intact(self) -> bool:
        """Whether every entry holds."""
        return self.broken_at == 0


class BrokenError(Exception):
    """The chain does not hold at an entry; `verify` turns it into a verdict."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


class Walk:
    """One walk along the chain.

    Args:
        key: the trusted key of checkpoints; None judges no signature.
        start: number and hash of the entry that the walk begins after.
    """

    def __init__(self, key: Key | None, start: tuple[int, str] = (0, GENESIS)) -> None:
        self._key = key
        self._begun = False
        self._serial = 0
        self.number, self.head = start
        self.signed, self.signed_at = 0, 0.0

    def entry(self, entry: AuditEntry) -> None:
        """Take the next entry. Raises BrokenError."""
        expected = self.number + 1
        if entry.number != expected:
            raise BrokenError(
                expected, f"entry {expected} is missing: entry {entry.number} follows"
            )
        if entry.previous_hash != self.head:
            raise BrokenError(expected, "it does not hold the hash of the entry before it")
        if hash_of(entry) != entry.hash:
            raise BrokenError(expected, "its hash is not that of its fields: it was changed")
        self.number, self.head = entry.number, entry.hash

    def checkpoint(self, point: AuditCheckpoint) -> None:
        """Take the next checkpoint, after the entry that it covers. Raises BrokenError."""
        if point.number > self.number:
            raise BrokenError(
                self.number + 1,
                f"it is missing: checkpoint {point.serial} covers {point.number} entries, the log ends here",
            )
        if self._serial and point.serial != self._serial + 1:
            raise BrokenError(
                point.number, f"checkpoint {self._serial + 1} is missing, {point.serial} follows"
            )
        self._serial = point.serial
        if point.number < self.number:
            raise BrokenError(point.number, f"checkpoint {point.serial} is out of order")
        if point.head != self.head:
            raise BrokenError(
                point.number,
                f"checkpoint {point.serial} was made of another entry: it was rewritten",
            )
        self._judge(point)

    def end(self, *, must_be_signed: bool) -> None:
        """Take the end of the log. Raises BrokenError."""
        if self._key is not None and not self._begun and (self._serial or must_be_signed):
            raise BrokenError(
                1, f"no checkpoint of this log is signed by the trusted key {self._key.keyid[:16]}"
            )

    def _judge(self, point: AuditCheckpoint) -> None:
        if self._key is None:
            return
        if point.keyid != self._key.keyid:
            if self._begun:
                raise BrokenError(
                    point.number,
                    f"checkpoint {point.serial} is signed by {point.keyid[:16]}, which nobody handed over to",
                )
            return
        # Hexadecimal may be written in two ways: what was signed has one.
        if point.signature != point.signature.lower() or not holds(point, self._key):
            raise BrokenError(
                point.number, f"the signature of checkpoint {point.serial} does not hold"
            )
        self._begun = True
        self.signed, self.signed_at = point.number, point.at
        if point.next_key:
            self._key = key_files.public_from(json.loads(point.next_key), name="next_key")


def verify(
    records: Iterable[Record],
    *,
    key: Key | None = None,
    known: AuditCheckpoint | None = None,
    must_be_signed: bool = False,
    start: tuple[int, str] = (0, GENESIS),
) -> Verdict:
    """Walk the chain.

    Args:
        records: its entries in order, each checkpoint after the entry that it covers (`merged`).
        key: the trusted key of its checkpoints; None judges no signature.
        known: a checkpoint that this log once had; a log that was cut off since is found by it.
        must_be_signed: a log without any checkpoint is broken too.
        start: number and hash of the entry that `records` begins after.
    """
    walk, found = Walk(key, start), known is None
    try:
        for record in records:
            if isinstance(record, AuditCheckpoint):
                walk.checkpoint(record)
                found = found or (known is not None and _same(record, known))
            else:
                walk.entry(record)
        if known is not None and not found:
            _miss(walk, known)
        walk.end(must_be_signed=must_be_signed)
    except (BrokenError, KeyFileError, ValueError) as error:
        number = error.number if isinstance(error, BrokenError) else walk.number + 1
        return Verdict(walk.number + 1, number, walk.head, str(error), walk.signed, walk.signed_at)
    return Verdict(walk.number, 0, walk.head, "", walk.signed, walk.signed_at)


def merged(
    entries: Iterable[AuditEntry], checkpoints: Iterable[AuditCheckpoint]
) -> Iterator[Record]:
    """Both in one order: each checkpoint comes after the entry that it covers."""
    points = iter(checkpoints)
    point = next(points, None)
    for entry in entries:
        while point is not None and point.number < entry.number:
            yield point
            point = next(points, None)
        yield entry
    if point is not None:
        yield point
    yield from points


def hash_of(entry: AuditEntry) -> str:
    """The hash that the entry should have."""
    fields = {
        "number": entry.number,
        "at": entry.at,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "details": entry.details,
        "previous_hash": entry.previous_hash,
    }
    return hashlib.sha256(canonical(fields).encode()).hexdigest()


def payload(point: AuditCheckpoint) -> bytes:
    """What a checkpoint's signature covers."""
    fields = {
        "format": FORMAT,
        "serial": point.serial,
        "number": point.number,
        "at": point.at,
        "head": point.head,
        "next_key": point.next_key,
        "keyid": point.keyid,
    }
    return canonical(fields).encode()


def holds(point: AuditCheckpoint, key: Key) -> bool:
    """Whether a checkpoint is signed by a key."""
    try:
        key.verify_signature(Signature(point.keyid, point.signature), payload(point))
    except Exception:  # noqa: BLE001 - securesystemslib's several, and what malformed hex raises
        return False
    return True


def canonical(value: Any) -> str:
    """JSON with sorted keys and nothing beside it: what is hashed and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _miss(walk: Walk, known: AuditCheckpoint) -> None:
    raise BrokenError(
        min(walk.number + 1, known.number),
        f"checkpoint {known.serial} over {known.number} entries is known and is not in this log: "
        f"the log was cut off, rewritten, or restored from a backup",
    )


def _same(one: AuditCheckpoint, other: AuditCheckpoint) -> bool:
    return one.serial == other.serial and one.signature == other.signature
