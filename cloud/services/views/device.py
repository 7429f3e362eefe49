"""One device: what it is, what it runs, what it sent."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from cloud.services import drift
from cloud.services.views import fleet
from cloud.services.views.base import View
from cloud.services.views.fleet import DeviceLine, EventLine
from fleet.registry.repositories import Devices, Telemetry, Trust
from fleet.registry.repositories.telemetry import Reception
from fleet.registry.tables import Report, TelemetryWindow
from fleet.telemetry.histogram import quantile


class WindowLine(View, frozen=True):
    """A telemetry window as a point of a chart.

    Attributes:
        latency_ms_p50, latency_ms_p95: upper edges of the histogram's bins; None without inferences.
        means: mean of each watched feature.
    """

    model: str
    release: str
    sha256: str
    started: float
    ended: float
    inferences: int
    errors: int
    merged: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    drift_changed: bool
    drift_score: float
    means: dict[str, float]
    classes: dict[str, int]


class ReportLine(View, frozen=True):
    """A step of an update as the device reported it."""

    at: float
    model: str
    release: str
    state: str
    terminal: bool
    progress: float
    counter: int
    error_code: str
    detail: str
    figures: dict[str, float | None]


class Gap(View, frozen=True):
    """How complete what came from one start of the agent is."""

    boot_epoch: str
    last: int
    rows: int
    missing: int


class DeviceView(View, frozen=True):
    """The device page."""

    line: DeviceLine
    tenant: str
    created_at: float
    revoked_at: float | None
    boot_epoch: str
    runtimes: list[dict[str, Any]]
    trust: dict[str, int]
    assigned_counter: int
    assigned: dict[str, str]
    certificate_expires: float | None
    gaps: list[Gap]
    missing: int
    windows: list[WindowLine]
    reports: list[ReportLine]
    events: list[EventLine]


def device(session: Session, device_id: str, *, limit: int = 200) -> DeviceView:
    """One device with its newest `limit` windows, reports and events, newest first.

    Raises:
        NotFoundError: no such device.
    """
    row = Devices(session).get(device_id)
    telemetry = Telemetry(session)
    keys = Devices(session).keys(device_id)
    newest = Trust(session).newest_assignment(device_id)
    gaps = [_gap(reception) for reception in telemetry.receptions(device_id)]
    return DeviceView(
        line=fleet.device_line(session, device_id),
        tenant=row.tenant,
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        boot_epoch=row.boot_epoch,
        runtimes=list(row.runtimes),
        trust=dict(row.trust),
        assigned_counter=newest.counter if newest else 0,
        assigned=dict(newest.models) if newest else {},
        certificate_expires=max((key.not_after for key in keys), default=None),
        gaps=gaps,
        missing=sum(gap.missing for gap in gaps),
        windows=windows(session, device_id, limit=limit),
        reports=[_report(report) for report in telemetry.reports(device_id, limit=limit)],
        events=[fleet.event_line(event) for event in telemetry.events(device_id, limit=limit)],
    )


def windows(
    session: Session, device_id: str, *, model: str | None = None, limit: int = 200
) -> list[WindowLine]:
    """Windows of a device, newest first; damaged rows are left out."""
    rows = Telemetry(session).windows(device_id, model=model, limit=limit)
    lines = (_window(row) for row in rows)
    return [line for line in lines if line is not None]


def _window(row: TelemetryWindow) -> WindowLine | None:
    window = drift.decoded(row)
    if window is None:
        return None
    return WindowLine(
        model=row.model,
        release=row.release,
        sha256=row.sha256,
        started=row.started,
        ended=row.ended,
        inferences=row.inferences,
        errors=row.errors,
        merged=row.merged,
        latency_ms_p50=quantile(window.latency_ms, 0.5),
        latency_ms_p95=quantile(window.latency_ms, 0.95),
        drift_changed=row.drift_changed,
        drift_score=row.drift_score,
        means={name: h.mean for name, h in window.features.items() if h.count},
        classes={str(key): count for key, count in sorted(window.classes.items())},
    )


def _report(row: Report) -> ReportLine:
    return ReportLine(
        at=row.at,
        model=row.model,
        release=row.release,
        state=row.state,
        terminal=row.terminal,
        progress=row.progress,
        counter=row.counter,
        error_code=row.error_code,
        detail=row.detail,
        figures=dict(row.figures),
    )


def _gap(reception: Reception) -> Gap:
    return Gap(
        boot_epoch=reception.boot_epoch,
        last=reception.last,
        rows=reception.rows,
        missing=reception.missing,
    )
