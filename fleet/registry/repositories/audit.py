"""The audit log's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sqlalchemy import text
from sqlmodel import Session, col, select

from fleet.registry.tables import AuditCheckpoint, AuditEntry

_LOCK_KEY = 0x0A0D17


class Audit:
    """Queries over the audit log."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def last_for_append(self) -> AuditEntry | None:
        """The newest entry; no other transaction appends until this one ends."""
        if self._session.get_bind().dialect.name == "postgresql":
            self._session.connection().execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}
            )
        query = select(AuditEntry).order_by(col(AuditEntry.number).desc()).limit(1)
        return self._session.exec(query).first()

    def append(self, entry: AuditEntry) -> None:
        """Add an entry."""
        self._session.add(entry)
        self._session.flush()

    def newest(self, limit: int, *, before: int | None = None) -> Sequence[AuditEntry]:
        """The newest entries first; those numbered below `before` when given."""
        query = select(AuditEntry).order_by(col(AuditEntry.number).desc()).limit(limit)
        if before is not None:
            query = query.where(col(AuditEntry.number) < before)
        return self._session.exec(query).all()

    def all(self, *, above: int = 0) -> Iterator[AuditEntry]:
        """Every entry numbered above `above`, oldest first, a thousand at a time."""
        query = select(AuditEntry).where(col(AuditEntry.number) > above)
        query = query.order_by(col(AuditEntry.number))
        yield from self._session.exec(query.execution_options(yield_per=1000))

    def entry(self, number: int) -> AuditEntry | None:
        """The entry of that number."""
        return self._session.get(AuditEntry, number)

    def checkpoints(self) -> Iterator[AuditCheckpoint]:
        """Every checkpoint, oldest first."""
        query = select(AuditCheckpoint).order_by(col(AuditCheckpoint.serial))
        yield from self._session.exec(query.execution_options(yield_per=1000))

    def newest_checkpoint(self) -> AuditCheckpoint | None:
        """The newest checkpoint."""
        query = select(AuditCheckpoint).order_by(col(AuditCheckpoint.serial).desc()).limit(1)
        return self._session.exec(query).first()

    def checkpoint(self, serial: int) -> AuditCheckpoint | None:
        """The checkpoint of that serial number."""
        return self._session.get(AuditCheckpoint, serial)

    def add_checkpoint(self, row: AuditCheckpoint) -> None:
        """Add a checkpoint."""
        self._session.add(row)
        self._session.flush()
