"""The pages: fleet, device, rollouts, models, audit; orders to rollouts; live events.

Rules:
- A page is rendered whole, and asks for itself again when an event says that something changed; so
  every page works, and tells the truth, before any script has run.
- Orders need the role operator, this site's origin and the session's CSRF secret.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles

from cloud.api.access import Cloud
from cloud.audit import checkpoints
from cloud.auth.roles import Role
from cloud.auth.sessions import Visitor
from cloud.dashboard import charts, events, login, proving, rendering, rollouts, words
from cloud.dashboard.gate import (
    LoginLinks,
    Seen,
    SignInNeededError,
    done,
    lead_to_sign_in,
    ordered_by,
)
from cloud.dashboard.words import Word
from cloud.errors import InputError
from cloud.services import rollouts as orders
from cloud.services import views
from cloud.services.views.device import windows
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Audit

CHART_WINDOWS = 240
AUDIT_ENTRIES = 200

router = APIRouter(include_in_schema=False)


def install(app: FastAPI) -> None:
    """Add the dashboard to an application whose context stands in ``app.state``."""
    app.state.login_links = LoginLinks()
    app.add_exception_handler(SignInNeededError, lead_to_sign_in)
    app.mount("/static", StaticFiles(directory=rendering.STATIC), name="static")
    app.include_router(login.router)
    app.include_router(proving.router)
    app.include_router(router)


@router.get("/")
def fleet(request: Request, visitor: Seen, cloud: Cloud) -> Response:
    """The whole fleet."""
    with cloud.read() as session:
        seen = views.fleet(session, events=30)
        live = [it for it in views.rollouts(session) if rollouts.is_live(it)]
        raised = views.campaigns(session, open_only=True)
    models = [model for device in seen.devices for model in device.models]
    return _page(
        "fleet.html",
        request,
        visitor,
        "Fleet",
        fleet=seen,
        live=live,
        campaigns=raised,
        answers=sum(model.inferences for model in models),
        errors=sum(model.errors for model in models),
    )


@router.get("/devices/{device_id}")
def device(request: Request, visitor: Seen, cloud: Cloud, device_id: str) -> Response:
    """One device."""
    try:
        with cloud.read() as session:
            seen = views.device(session, device_id, limit=60)
    except NotFoundError as error:
        return _missing(request, visitor, "Fleet", error)
    complete = Word("nothing missing", "good")
    return _page("device.html", request, visitor, "Fleet", device=seen, complete=complete)


@router.get("/devices/{device_id}/charts/{model}/{chart}")
def device_chart(_visitor: Seen, cloud: Cloud, device_id: str, model: str, chart: str) -> Response:
    """The series of one chart."""
    if chart not in charts.CHARTS:
        known = ", ".join(charts.CHARTS)
        raise InputError(f"chart: expected one of {known}, found {chart!r}; mend the address")
    with cloud.read() as session:
        found = windows(session, device_id, model=model, limit=CHART_WINDOWS)
    return JSONResponse(charts.CHARTS[chart](found), headers={"Cache-Control": "no-store"})


@router.get("/rollouts")
def rollout_list(request: Request, visitor: Seen, cloud: Cloud) -> Response:
    """All rollouts."""
    with cloud.read() as session:
        found = views.rollouts(session)
    return _page("rollouts.html", request, visitor, "Rollouts", rollouts=found)


@router.get("/rollouts/{rollout_id}")
def rollout(request: Request, visitor: Seen, cloud: Cloud, rollout_id: str) -> Response:
    """One rollout."""
    try:
        with cloud.read() as session:
            page = views.rollout(session, rollout_id)
    except NotFoundError as error:
        return _missing(request, visitor, "Rollouts", error)
    return _page("rollout.html", request, visitor, "Rollouts", page=page)


@router.post("/rollouts/{rollout_id}/{order}")
def rollout_order(
    request: Request,
    cloud: Cloud,
    rollout_id: str,
    order: str,
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Start, pause, resume, abort or roll back."""
    by = ordered_by(request, csrf)
    if order not in orders.ORDERS:
        known = ", ".join(orders.ORDERS)
        raise InputError(f"order: expected one of {known}, found {order!r}; reload the page")
    orders.order(cloud, rollout_id, order, by=by)
    return done(request, f"/rollouts/{rollout_id}")


@router.get("/models")
def model_list(request: Request, visitor: Seen, cloud: Cloud) -> Response:
    """All models."""
    with cloud.read() as session:
        found = views.models(session)
        raised = views.campaigns(session)
    return _page("models.html", request, visitor, "Models", models=found, campaigns=raised)


@router.get("/models/{name}")
def model(request: Request, visitor: Seen, cloud: Cloud, name: str) -> Response:
    """One model: its versions with their proofs, and where it runs."""
    try:
        with cloud.read() as session:
            seen = views.model(session, name)
            devices = views.devices(session)
            provers = views.provers(session)
    except NotFoundError as error:
        return _missing(request, visitor, "Models", error)
    where = [(device, line) for device in devices for line in device.models if line.model == name]
    released = Word("released", "good")
    return _page(
        "model.html",
        request,
        visitor,
        "Models",
        model=seen,
        where=where,
        released=released,
        provers=provers,
    )


@router.get("/audit")
def audit(request: Request, visitor: Seen, cloud: Cloud) -> Response:
    """Who did what, and whether the chain of hashes holds since the newest checkpoint."""
    with cloud.read() as session:
        verdict = checkpoints.verify_tail(session, cloud.settings)
        entries = Audit(session).newest(AUDIT_ENTRIES)
        broken = Word(f"broken at entry {verdict.broken_at}", "bad")
        chain = Word("chain intact", "good") if verdict.intact else broken
        return _page(
            "audit.html", request, visitor, "Audit", entries=entries, verdict=verdict, chain=chain
        )


@router.get("/dashboard/events")
async def live(request: Request, _visitor: Seen, cloud: Cloud) -> Response:
    """Server-sent events for an open page."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    frames = events.stream(cloud.bus, lambda: bool(request.app.state.closing))
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)


def _page(
    template: str, request: Request, visitor: Visitor, section: str, **values: Any
) -> Response:
    may_order = visitor.principal.role >= Role.OPERATOR
    return rendering.page(
        template,
        visitor=visitor,
        section=section,
        here=request.url.path,
        words=words,
        rules=rollouts,
        may_order=may_order,
        may_build=visitor.principal.role >= Role.ENGINEER,
        **values,
    )


def _missing(request: Request, visitor: Visitor, section: str, error: NotFoundError) -> Response:
    return rendering.page(
        "problem.html",
        status=404,
        visitor=visitor,
        section=section,
        here=request.url.path,
        heading="Not found",
        text=str(error),
    )
