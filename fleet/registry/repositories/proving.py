"""Trials of artifacts on proving devices."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import Device, Trial

_OPEN = ("queued", "running")


class Proving:
    """Queries over trials and who proves."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: Trial) -> None:
        """Add a row, and give its constraints their chance to refuse it at once."""
        self._session.add(row)
        self._session.flush()

    def trial(self, trial: str) -> Trial:
        """One trial. Raises NotFoundError."""
        found = self._session.get(Trial, trial)
        if found is None:
            raise NotFoundError(
                f"expected the id of a trial, found {trial!r}; see `outrider artifact trials`"
            )
        return found

    def trials(self, *, model: str | None = None, limit: int = 200) -> Sequence[Trial]:
        """Trials, newest first; of one model when given."""
        query = select(Trial).order_by(col(Trial.created_at).desc(), col(Trial.id)).limit(limit)
        if model is not None:
            query = query.where(Trial.model == model)
        return self._session.exec(query).all()

    def newest_of(self, artifacts: Sequence[str]) -> dict[str, Trial]:
        """The newest trial of each artifact that has one."""
        query = select(Trial).where(col(Trial.artifact).in_(list(artifacts)))
        rows = self._session.exec(query.order_by(col(Trial.created_at), col(Trial.id))).all()
        return {row.artifact: row for row in rows}

    def open_of_artifact(self, artifact: str) -> Trial | None:
        """The artifact's trial that has not ended."""
        query = select(Trial).where(Trial.artifact == artifact, col(Trial.state).in_(_OPEN))
        return self._session.exec(query).first()

    def running_on(self, device: str) -> Trial | None:
        """The trial that a device has now."""
        query = select(Trial).where(Trial.device == device, Trial.state == "running")
        return self._session.exec(query).first()

    def queued_on(self, device: str) -> Sequence[Trial]:
        """The trials that wait for a device, oldest first."""
        query = select(Trial).where(Trial.device == device, Trial.state == "queued")
        return self._session.exec(query.order_by(col(Trial.created_at), col(Trial.id))).all()

    def open(self) -> Sequence[Trial]:
        """All trials that have not ended, oldest first."""
        query = select(Trial).where(col(Trial.state).in_(_OPEN))
        return self._session.exec(query.order_by(col(Trial.created_at), col(Trial.id))).all()

    def provers(self, hardware_classes: Sequence[str]) -> Sequence[Device]:
        """Devices that were named for one of the classes and are not revoked; online first, then by id."""
        query = (
            select(Device)
            .where(
                col(Device.proving_class).in_(list(hardware_classes)),
                col(Device.revoked_at).is_(None),
            )
            .order_by(col(Device.online).desc(), col(Device.id))
        )
        return self._session.exec(query).all()
