"""Orders about proving: name a device, try an artifact, call a trial off; decide on rebuild campaigns."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from cloud.api.access import Cloud
from cloud.auth.roles import Role
from cloud.dashboard.gate import done, ordered_by
from cloud.errors import InputError
from cloud.services import campaigns, proving

router = APIRouter(include_in_schema=False)
Csrf = Annotated[str, Form()]
_DECISIONS = {"start": campaigns.start, "dismiss": campaigns.dismiss}


@router.post("/devices/{device_id}/proving/{part}")
def name_prover(
    request: Request, cloud: Cloud, device_id: str, part: str, csrf: Csrf = ""
) -> Response:
    """Name a device a proving device (`part` is ``on``), or take that back."""
    by = ordered_by(request, csrf)
    with cloud.unit() as unit:
        proving.name(unit, device_id, on=part == "on", by=by)
    return done(request, f"/devices/{device_id}")


@router.post("/artifacts/{sha256}/prove")
def prove(request: Request, cloud: Cloud, sha256: str, csrf: Csrf = "") -> Response:
    """Try an unproven artifact on the first proving device that can run it."""
    trial = proving.prove(cloud, sha256, by=ordered_by(request, csrf))
    return done(request, f"/models/{trial.model}")


@router.post("/trials/{trial_id}/cancel")
def cancel(request: Request, cloud: Cloud, trial_id: str, csrf: Csrf = "") -> Response:
    """Call a trial off."""
    trial = proving.cancel(cloud, trial_id, by=ordered_by(request, csrf))
    return done(request, f"/models/{trial.model}")


@router.post("/campaigns/{campaign_id}/{decision}")
def decide(
    request: Request, cloud: Cloud, campaign_id: str, decision: str, csrf: Csrf = ""
) -> Response:
    """Start or dismiss a rebuild campaign."""
    by = ordered_by(request, csrf, Role.ENGINEER)
    if decision not in _DECISIONS:
        known = ", ".join(_DECISIONS)
        raise InputError(f"decision: expected one of {known}, found {decision!r}; reload the page")
    _DECISIONS[decision](cloud, campaign_id, by=by)
    return done(request, "/models")
