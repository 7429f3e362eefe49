"""Metadata files, desired models and signed assignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import func, text
from sqlmodel import Session, col, select

from fleet.registry.tables import Assignment, DesiredModel, TrustFile

_LOCK_KEY = 0x0A0D18


class Trust:
    """Queries over what is signed."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def files(self, repository: str) -> dict[str, bytes]:
        """The files of ``image`` or ``director`` by name."""
        query = select(TrustFile).where(TrustFile.repository == repository)
        return {row.name: row.data for row in self._session.exec(query)}

    def files_for_update(self, repository: str) -> dict[str, bytes]:
        """Like `files`; nobody else changes a repository until this transaction ends."""
        if self._session.get_bind().dialect.name == "postgresql":
            self._session.connection().execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK_KEY}
            )
        return self.files(repository)

    def updated_at(self, repository: str, name: str) -> float | None:
        """When a file was last signed; None when there is none."""
        row = self._session.get(TrustFile, (repository, name))
        return None if row is None else row.updated_at

    def roots_updated_at(self) -> float:
        """When a root was stored last, of either repository, seconds since the epoch."""
        query = select(func.max(TrustFile.updated_at)).where(
            col(TrustFile.name).like("%.root.json")
        )
        return self._session.exec(query).one() or 0.0

    def put_files(self, repository: str, files: Mapping[str, bytes], *, now: float) -> None:
        """Store or replace files; others stay."""
        for name, data in files.items():
            row = self._session.get(TrustFile, (repository, name))
            if row is None:
                row = TrustFile(repository=repository, name=name, data=data, updated_at=now)
            elif row.data == data:
                continue
            row.data, row.updated_at = data, now
            self._session.add(row)
        self._session.flush()

    def desired(self, device: str) -> Sequence[DesiredModel]:
        """What the device should run, by model."""
        query = select(DesiredModel).where(DesiredModel.device == device)
        return self._session.exec(query.order_by(col(DesiredModel.model))).all()

    def desired_of(self, devices: Sequence[str]) -> Sequence[DesiredModel]:
        """What some devices should run."""
        query = select(DesiredModel).where(col(DesiredModel.device).in_(list(devices)))
        return self._session.exec(query).all()

    def desired_model(self, device: str, model: str) -> DesiredModel | None:
        """What the device should run for one model."""
        return self._session.get(DesiredModel, (device, model))

    def set_desired(self, row: DesiredModel) -> None:
        """Set what a device should run for one model."""
        self._session.merge(row)
        self._session.flush()

    def clear_desired(self, device: str, model: str) -> None:
        """Let the device run nothing for one model."""
        row = self._session.get(DesiredModel, (device, model))
        if row is not None:
            self._session.delete(row)
            self._session.flush()

    def newest_assignment(self, device: str) -> Assignment | None:
        """The assignment with the highest counter."""
        query = (
            select(Assignment)
            .where(Assignment.device == device)
            .order_by(col(Assignment.counter).desc())
            .limit(1)
        )
        return self._session.exec(query).first()

    def add_assignment(self, row: Assignment) -> None:
        """Add an assignment; the database refuses a counter that was used."""
        self._session.add(row)
        self._session.flush()

    def assigned_digests(self, device: str) -> set[str]:
        """Digests of the artifacts that the device should run."""
        query = select(DesiredModel.artifact).where(DesiredModel.device == device)
        return set(self._session.exec(query).all())
