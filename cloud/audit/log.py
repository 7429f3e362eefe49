"""The audit log: who did what, in a chain of hashes.

Rules:
- An entry is written in the transaction of the act that it speaks of: neither stands without the other.
- ``hash = sha256(canonical JSON of every other field)``, and each entry holds the hash of the one before
  it; the first holds 64 zeros. Changing, removing or inserting an entry breaks every later hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from cloud.context import Unit
from fleet.registry.repositories import Audit
from fleet.registry.tables import AuditEntry

GENESIS = "0" * 64


class Verdict(NamedTuple):
    """Whether the chain holds.

    Attributes:
        entries: how many entries were looked at.
        broken_at: number of the first entry that does not hold; 0 when all do.
    """

    entries: int
    broken_at: int
    head: str

    @property
    def intact(self) -> bool:
        """Whether every entry holds."""
        return self.broken_at == 0


def record(unit: Unit, *, actor: str, action: str, subject: str, **details: Any) -> AuditEntry:
    """Append an entry within the unit's transaction.

    Args:
        unit: the transaction of the act.
        actor: who did it: a token's name, ``device:ID``, or ``cloud``.
        action: what was done, for instance ``rollout.start``.
        subject: to what: an id.
        details: JSON values that say more; never a secret.
    """
    repository = Audit(unit.session)
    last = repository.last_for_append()
    entry = AuditEntry(
        number=last.number + 1 if last else 1,
        at=unit.now,
        actor=actor,
        action=action,
        subject=subject,
        details=_canonical(details),
        previous_hash=last.hash if last else GENESIS,
        hash="",
    )
    entry.hash = hash_of(entry)
    repository.append(entry)
    return entry


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
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()


def verify(entries: Iterable[AuditEntry]) -> Verdict:
    """Walk the chain from its first entry."""
    previous, count = GENESIS, 0
    for entry in entries:
        count += 1
        linked = entry.number == count and entry.previous_hash == previous
        if not linked or hash_of(entry) != entry.hash:
            return Verdict(count, count, previous)
        previous = entry.hash
    return Verdict(count, 0, previous)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
