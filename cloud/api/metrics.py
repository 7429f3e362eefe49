"""The fleet as Prometheus metrics, read from the registry at each scrape."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlmodel import Session

from cloud.services import views
from fleet.registry.repositories import Devices, Models, Telemetry
from fleet.registry.tables.models import JOB_STATES


def of(session: Session) -> bytes:
    """Gauges of the whole fleet; no device is named."""
    registry = CollectorRegistry()
    counts = views.fleet(session, events=0).counts
    devices = Gauge("outrider_devices", "Devices by state.", ["state"], registry=registry)
    for state in ("online", "offline", "revoked", "updating", "failed", "drifting"):
        devices.labels(state).set(getattr(counts, state))
    rollouts = Gauge("outrider_rollouts", "Rollouts by state.", ["state"], registry=registry)
    for state, number in counts.rollouts.items():
        rollouts.labels(state).set(number)
    jobs = Gauge("outrider_compile_jobs", "Compile jobs by state.", ["state"], registry=registry)
    for state in JOB_STATES:
        jobs.labels(state).set(len(Models(session).jobs(state=state, limit=10_000)))
    telemetry = Telemetry(session)
    received = Gauge("outrider_rows_received", "Rows from devices.", ["kind"], registry=registry)
    for kind, number in telemetry.counts().items():
        received.labels(kind).set(number)
    totals = telemetry.totals().values()
    inferences = Gauge("outrider_inferences", "Inferences that devices counted.", registry=registry)
    inferences.set(sum(number for number, _ in totals))
    errors = Gauge("outrider_inference_errors", "Of those, failed.", registry=registry)
    errors.set(sum(number for _, number in totals))
    return generate_latest(registry)


def probe(session: Session) -> None:
    """One cheap query, to see whether the registry answers."""
    Devices(session).count()
