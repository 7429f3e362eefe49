"""Engines that builder devices make for their twins."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import Device, EngineBuild

_OPEN = ("ordered", "receiving")


class Engines:
    """Queries over builds for twins."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: EngineBuild) -> None:
        """Add a row, and give its constraints their chance to refuse it at once."""
        self._session.add(row)
        self._session.flush()

    def get(self, build: str) -> EngineBuild:
        """One build. Raises NotFoundError."""
        found = self._session.get(EngineBuild, build)
        if found is None:
            raise NotFoundError(f"expected the id of an engine's build, found {build!r}")
        return found

    def all(self, *, limit: int = 200) -> Sequence[EngineBuild]:
        """Builds, newest first."""
        query = select(EngineBuild).order_by(
            col(EngineBuild.created_at).desc(), col(EngineBuild.id)
        )
        return self._session.exec(query.limit(limit)).all()

    def open(self) -> Sequence[EngineBuild]:
        """Builds that have not ended, oldest first."""
        query = select(EngineBuild).where(col(EngineBuild.state).in_(_OPEN))
        return self._session.exec(
            query.order_by(col(EngineBuild.created_at), col(EngineBuild.id))
        ).all()

    def open_of_device(self, device: str) -> EngineBuild | None:
        """The build that a device has now."""
        query = select(EngineBuild).where(
            EngineBuild.device == device, col(EngineBuild.state).in_(_OPEN)
        )
        return self._session.exec(query).first()

    def builders(self, hardware_classes: Sequence[str]) -> Sequence[Device]:
        """Devices that were named builders of one of the classes; online first, then by id."""
        query = (
            select(Device)
            .where(
                col(Device.builder_class).in_(list(hardware_classes)),
                col(Device.revoked_at).is_(None),
            )
            .order_by(col(Device.online).desc(), col(Device.id))
        )
        return self._session.exec(query).all()
