"""Rebuild campaigns as they are shown."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from cloud.services import campaigns as service
from cloud.services.views.base import View
from fleet.registry.repositories import Campaigns
from fleet.registry.tables import Campaign


class CampaignLine(View, frozen=True):
    """Devices of a class report a runtime that artifacts in use were not built or proven for.

    Attributes:
        artifacts: digest, model, version and target of what is concerned, and the version it was built for.
        devices: how many report it.
        jobs: compile jobs by ``model@version``, once it was started.
    """

    id: str
    hardware_class: str
    runtime: str
    version: str
    state: str
    artifacts: list[dict[str, Any]]
    devices: int
    jobs: dict[str, str]
    raised_at: float | None
    decided_at: float | None
    decided_by: str


def campaigns(session: Session, *, open_only: bool = False) -> list[CampaignLine]:
    """Campaigns that were raised, newest first; those that wait for a decision when `open_only`."""
    states = ("open",) if open_only else service.SHOWN
    return [_line(row) for row in Campaigns(session).all(states=states)]


def campaign(session: Session, campaign_id: str) -> CampaignLine:
    """One campaign. Raises NotFoundError."""
    return _line(Campaigns(session).get(campaign_id))


def _line(row: Campaign) -> CampaignLine:
    return CampaignLine(
        id=row.id,
        hardware_class=row.hardware_class,
        runtime=row.runtime,
        version=row.version,
        state=row.state,
        artifacts=list(row.artifacts),
        devices=row.devices,
        jobs=dict(row.jobs),
        raised_at=row.raised_at,
        decided_at=row.decided_at,
        decided_by=row.decided_by,
    )
