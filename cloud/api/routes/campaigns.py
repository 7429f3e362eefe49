"""Rebuild campaigns."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from cloud.api.access import Cloud, Engineer, Viewer
from cloud.api.answers import answer
from cloud.services import campaigns, views

router = APIRouter(prefix="/campaigns", tags=["campaigns"])


@router.get("")
def list_campaigns(cloud: Cloud, _by: Viewer) -> Response:
    """Campaigns that were raised, newest first."""
    with cloud.read() as session:
        return answer(views.campaigns(session))


@router.get("/{campaign}")
def show(campaign: str, cloud: Cloud, _by: Viewer) -> Response:
    """One campaign with the artifacts that it concerns."""
    return _show(cloud, campaign)


@router.post("/{campaign}/start")
def start(campaign: str, cloud: Cloud, by: Engineer) -> Response:
    """Queue the compile jobs."""
    campaigns.start(cloud, campaign, by=by.name)
    return _show(cloud, campaign)


@router.post("/{campaign}/dismiss")
def dismiss(campaign: str, cloud: Cloud, by: Engineer) -> Response:
    """Leave the artifacts as they are."""
    campaigns.dismiss(cloud, campaign, by=by.name)
    return _show(cloud, campaign)


def _show(cloud: Cloud, campaign: str) -> Response:
    with cloud.read() as session:
        return answer(views.campaign(session, campaign))
