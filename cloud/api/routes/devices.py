"""The fleet and its devices."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.api.access import Cloud, Operator, Viewer
from cloud.api.answers import answer
from cloud.auth.pki import Pki
from cloud.services import enrolment, views

router = APIRouter(tags=["devices"])

Limit = Annotated[int, Query(ge=1, le=5000)]


class NewClaim(BaseModel):
    """Which device to admit."""

    model_config = ConfigDict(extra="forbid")
    device: str = ""
    labels: dict[str, str] = {}
    expires_s: float = Field(default=3600.0, gt=0)


@router.get("/fleet")
def fleet(cloud: Cloud, _by: Viewer) -> Response:
    """The fleet in numbers, its devices and newest events."""
    with cloud.read() as session:
        return answer(views.fleet(session))


@router.post("/devices/claims", status_code=201)
def claim(body: NewClaim, cloud: Cloud, by: Operator) -> Response:
    """Make a single-use code that admits one device, and the command that uses it."""
    settings = cloud.settings
    with cloud.unit() as unit:
        made = enrolment.create_claim(
            unit,
            device=body.device or f"device-{cloud.ids()[:8]}",
            tenant=settings.tenant,
            labels=body.labels,
            expires_s=body.expires_s,
            actor=by.name,
            ids=cloud.ids,
        )
    host = settings.reachable_host
    url = f"https://{f'[{host}]' if ':' in host else host}:{settings.enrol_port}"
    ca_sha256 = Pki(settings.path("ca")).load_authority().sha256()
    command = (
        f"outrider-agent enroll --config agent.toml --url {url} --code {made.code}"
        f" --ca-sha256 {ca_sha256}"
    )
    return answer(
        {
            "device": made.device,
            "code": made.code,
            "expires": made.expires,
            "url": url,
            "ca_sha256": ca_sha256,
            "command": command,
        },
        201,
    )


@router.get("/devices")
def list_devices(cloud: Cloud, _by: Viewer, *, revoked: bool = False) -> Response:
    """Devices by id; the revoked ones too when asked for."""
    with cloud.read() as session:
        return answer(views.devices(session, revoked=revoked))


@router.get("/devices/{device}")
def show(device: str, cloud: Cloud, _by: Viewer, limit: Limit = 50) -> Response:
    """One device: what it is, what it runs, and the newest of what it sent."""
    with cloud.read() as session:
        return answer(views.device(session, device, limit=limit))


@router.get("/devices/{device}/windows")
def windows(
    device: str, cloud: Cloud, _by: Viewer, model: str | None = None, limit: Limit = 200
) -> Response:
    """Telemetry windows, newest first."""
    with cloud.read() as session:
        views.device_line(session, device)
        return answer(views.windows(session, device, model=model, limit=limit))


@router.get("/devices/{device}/events")
def events(device: str, cloud: Cloud, _by: Viewer, limit: Limit = 200) -> Response:
    """Events, newest first."""
    with cloud.read() as session:
        return answer(views.events(session, device, limit=limit))


@router.post("/devices/{device}/revoke")
def revoke(device: str, cloud: Cloud, by: Operator) -> Response:
    """Shut a device out at once."""
    with cloud.unit() as unit:
        enrolment.revoke(unit, device, actor=by.name)
    with cloud.read() as session:
        return answer(views.device_line(session, device))
