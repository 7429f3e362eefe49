"""Builder devices, and the engines that they make for their twins."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from cloud.api.access import Cloud, Operator, Viewer
from cloud.api.answers import answer
from cloud.api.routes.proving import Naming, Prove
from cloud.services import engines, views

router = APIRouter(tags=["engines"])


@router.post("/devices/{device}/builder")
def name_builder(device: str, body: Naming, cloud: Cloud, by: Operator) -> Response:
    """Name a device a builder for its twins, or take that back."""
    with cloud.unit() as unit:
        engines.name(unit, device, on=body.on, by=by.name)
    with cloud.read() as session:
        return answer(views.device_line(session, device))


@router.post("/artifacts/{sha256}/engine", status_code=202)
def order(sha256: str, body: Prove, cloud: Cloud, by: Operator) -> Response:
    """Order an engine of an artifact from a builder that runs it."""
    build = engines.order(cloud, sha256, device=body.device, by=by.name)
    return _show(cloud, build.id, 202)


@router.get("/engines")
def list_engines(cloud: Cloud, _by: Viewer) -> Response:
    """Orders to builders, newest first."""
    with cloud.read() as session:
        return answer(views.engines(session))


@router.get("/engines/{build}")
def show(build: str, cloud: Cloud, _by: Viewer) -> Response:
    """One order to a builder."""
    return _show(cloud, build)


@router.post("/engines/{build}/cancel")
def cancel(build: str, cloud: Cloud, by: Operator) -> Response:
    """Call an order off."""
    engines.cancel(cloud, build, by=by.name)
    return _show(cloud, build)


def _show(cloud: Cloud, build: str, status: int = 200) -> Response:
    with cloud.read() as session:
        return answer(views.engine(session, build), status)
