"""Rebuild campaigns."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import Artifact, Campaign, DesiredModel, Device


class Campaigns:
    """Queries over campaigns, and over what devices should run."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: Campaign) -> None:
        """Add a row, and give its constraints their chance to refuse it at once."""
        self._session.add(row)
        self._session.flush()

    def get(self, campaign: str) -> Campaign:
        """One campaign. Raises NotFoundError."""
        found = self._session.get(Campaign, campaign)
        if found is None:
            raise NotFoundError(
                f"expected the id of a campaign, found {campaign!r}; see `outrider campaign list`"
            )
        return found

    def get_for_update(self, campaign: str) -> Campaign:
        """One campaign; no other transaction decides on it until this one ends."""
        query = select(Campaign).where(Campaign.id == campaign).with_for_update()
        found = self._session.exec(query.execution_options(populate_existing=True)).first()
        return self.get(campaign) if found is None else found

    def all(self, *, states: Sequence[str] | None = None) -> Sequence[Campaign]:
        """Campaigns, newest first; of some states when given."""
        query = select(Campaign).order_by(col(Campaign.noticed_at).desc(), col(Campaign.id))
        if states is not None:
            query = query.where(col(Campaign.state).in_(list(states)))
        return self._session.exec(query).all()

    def in_use(self) -> Sequence[tuple[Device, Artifact]]:
        """What each device that is not revoked should run, but for candidates on trial."""
        query = (
            select(Device, Artifact)
            .join(DesiredModel, col(DesiredModel.device) == col(Device.id))
            .join(Artifact, col(Artifact.sha256) == col(DesiredModel.artifact))
            .where(
                col(Device.revoked_at).is_(None), ~col(DesiredModel.release).contains("-candidate.")
            )
            .order_by(col(Device.id), col(Artifact.sha256))
        )
        return self._session.exec(query).all()
