"""Health, readiness and metrics; open to everybody who reaches the port, so they name no device."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

from cloud.api import metrics
from cloud.api.access import Cloud
from cloud.api.answers import answer

router = APIRouter(tags=["operations"])


@router.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    return answer({"status": "ok"})


@router.get("/readyz")
def readyz(request: Request, cloud: Cloud) -> Response:
    """Whether the cloud can do its work: registry, and every part that was started."""
    checks = {"registry": _registry_answers(cloud)}
    checks |= {name: bool(check()) for name, check in request.app.state.checks.items()}
    ready = all(checks.values())
    return answer({"ready": ready, "checks": checks}, 200 if ready else 503)


@router.get("/metrics")
def prometheus(cloud: Cloud) -> Response:
    """Metrics in Prometheus' text format."""
    with cloud.read() as session:
        fleet = metrics.of(session)
    return Response(generate_latest(REGISTRY) + fleet, media_type=CONTENT_TYPE_LATEST)


def _registry_answers(cloud: Cloud) -> bool:
    with cloud.read() as session:
        metrics.probe(session)
    return True
