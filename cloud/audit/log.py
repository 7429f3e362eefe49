"""The audit log: who did what, in a chain of hashes (`cloud.audit.chain`).

Rules:
- An entry is written in the transaction of the act that it speaks of: neither stands without the other.
- It is written last, so that a transaction never waits for another lock while it holds the log's.
"""

from __future__ import annotations

from typing import Any

from cloud.audit import chain
from cloud.context import Unit
from fleet.registry.repositories import Audit
from fleet.registry.tables import AuditEntry


def record(unit: Unit, *, actor: str, action: str, subject: str, **details: Any) -> None:
    """Append an entry at the end of the unit's transaction.

    Args:
        unit: the transaction of the act.
        actor: who did it: a token's name, ``device:ID``, ``host:USER``, or ``cloud``.
        action: what was done, for instance ``rollout.start``.
        subject: to what: an id.
        details: JSON values that say more; never a secret.
    """
    text = chain.canonical(details)
    unit.last.append(lambda: _append(unit, actor, action, subject, text))


def _append(unit: Unit, actor: str, action: str, subject: str, details: str) -> None:
    repository = Audit(unit.session)
    last = repository.last_for_append()
    entry = AuditEntry(
        number=last.number + 1 if last else 1,
        at=unit.now,
        actor=actor,
        action=action,
        subject=subject,
        details=details,
        previous_hash=last.hash if last else chain.GENESIS,
        hash="",
    )
    entry.hash = chain.hash_of(entry)
    repository.append(entry)
