"""The fleet and its devices, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session

from cloud.services.cohorts import labels_of
from cloud.services.views.base import View
from fleet.registry.repositories import Devices, Rollouts, Telemetry, Trust
from fleet.registry.tables import (
    DesiredModel,
    Device,
    DeviceEvent,
    DeviceModel,
    DriftState,
    TelemetryWindow,
)

_ENDED_WELL = frozenset({"idle", "committed", "measured"})
_ENDED_BADLY = frozenset({"failed", "incompatible", "refused"})


class Drift(View, frozen=True):
    """Verdicts on what one device sees: its own on its newest window, and the registry's.

    Attributes:
        device_changed, device_score: of the newest window.
        registry_changed, registry_harmful, registry_score, feature: over merged recent windows.
        since: when the registry's verdict turned; 0 when there is none.
    """

    device_changed: bool = False
    device_score: float = 0.0
    registry_changed: bool = False
    registry_harmful: bool = False
    registry_score: float = 0.0
    feature: str = ""
    samples: int = 0
    since: float = 0.0


class ModelLine(View, frozen=True):
    """One model on one device.

    Attributes:
        release, sha256: what answers requests.
        desired_release: what should.
        update_release, state, progress: the update that the device last reported on.
        health: ``good``, ``updating`` or ``bad``.
    """

    model: str
    release: str
    sha256: str
    desired_release: str
    update_release: str
    state: str
    progress: float
    health: str
    error_code: str
    detail: str
    url: str
    inferences: int
    errors: int
    updated_at: float
    drift: Drift


class DeviceLine(View, frozen=True):
    """One device in the fleet's list.

    Attributes:
        proving_class, builder_class: the hardware class that it is a proving device, or a builder, of; empty: none.
    """

    id: str
    online: bool
    revoked: bool
    hardware_class: str
    agent_version: str
    labels: dict[str, str]
    last_seen_at: float | None
    birth_at: float | None
    buffered: int
    assignment_counter: int
    proving_class: str
    builder_class: str
    drifting: bool
    models: list[ModelLine]


class EventLine(View, frozen=True):
    """An event that a device sent."""

    device: str
    at: float
    code: str
    text: str
    level: str
    model: str
    release: str


class Counts(View, frozen=True):
    """The fleet in numbers; revoked devices are counted apart."""

    devices: int
    online: int
    offline: int
    revoked: int
    updating: int
    failed: int
    drifting: int
    rollouts: dict[str, int]


class FleetView(View, frozen=True):
    """The fleet page."""

    counts: Counts
    devices: list[DeviceLine]
    events: list[EventLine]


def fleet(session: Session, *, events: int = 20) -> FleetView:
    """The whole fleet."""
    lines = devices(session)
    return FleetView(
        counts=_counts(session, lines),
        devices=lines,
        events=[event_line(row) for row in Telemetry(session).events(limit=events)],
    )


def devices(session: Session, *, revoked: bool = False) -> list[DeviceLine]:
    """All devices by id; the revoked ones only when `revoked`."""
    rows = Devices(session).all(revoked=revoked)
    return _lines(session, rows)


def device_line(session: Session, device: str) -> DeviceLine:
    """One device. Raises NotFoundError."""
    return _lines(session, [Devices(session).get(device)])[0]


def events(session: Session, device: str, *, limit: int = 200) -> list[EventLine]:
    """Events of a device, newest first. Raises NotFoundError."""
    Devices(session).get(device)
    return [event_line(row) for row in Telemetry(session).events(device, limit=limit)]


def event_line(row: DeviceEvent) -> EventLine:
    """An event as it is shown."""
    return EventLine(
        device=row.device,
        at=row.at,
        code=row.code,
        text=row.text,
        level=row.level,
        model=row.model,
        release=row.release,
    )


def _lines(session: Session, rows: Sequence[Device]) -> list[DeviceLine]:
    ids = [row.id for row in rows]
    telemetry = Telemetry(session)
    models: dict[str, dict[str, DeviceModel]] = {}
    for model in Devices(session).models(ids):
        models.setdefault(model.device, {})[model.model] = model
    desired: dict[str, dict[str, DesiredModel]] = {}
    for want in Trust(session).desired_of(ids):
        desired.setdefault(want.device, {})[want.model] = want
    drifts = {(row.device, row.model): row for row in telemetry.drifts()}
    newest = {(row.device, row.model): row for row in telemetry.newest_windows(ids)}
    totals = telemetry.totals()
    lines = []
    for row in rows:
        names = sorted({*models.get(row.id, {}), *desired.get(row.id, {})})
        listed = [
            _model_line(
                name,
                models.get(row.id, {}).get(name),
                desired.get(row.id, {}).get(name),
                _drift(newest.get((row.id, name)), drifts.get((row.id, name))),
                totals.get((row.id, name), (0, 0)),
            )
            for name in names
        ]
        lines.append(_device_line(row, listed))
    return lines


def _device_line(row: Device, models: list[ModelLine]) -> DeviceLine:
    return DeviceLine(
        id=row.id,
        online=row.online,
        revoked=row.revoked_at is not None,
        hardware_class=row.hardware_class,
        agent_version=row.agent_version,
        labels=labels_of(row),
        last_seen_at=row.last_seen_at,
        birth_at=row.birth_at,
        buffered=row.buffered,
        assignment_counter=row.assignment_counter,
        proving_class=row.proving_class,
        builder_class=row.builder_class,
        drifting=any(m.drift.device_changed or m.drift.registry_changed for m in models),
        models=models,
    )


def _model_line(
    name: str,
    runs: DeviceModel | None,
    wants: DesiredModel | None,
    drift: Drift,
    totals: tuple[int, int],
) -> ModelLine:
    state = runs.state if runs else "waiting"
    health = "good" if state in _ENDED_WELL else "bad" if state in _ENDED_BADLY else "updating"
    return ModelLine(
        model=name,
        release=runs.running_release if runs else "",
        sha256=runs.running_sha256 if runs else "",
        desired_release=wants.release if wants else "",
        update_release=runs.release if runs else "",
        state=state,
        progress=runs.progress if runs else 0.0,
        health=health,
        error_code=runs.error_code if runs else "",
        detail=runs.detail if runs else "",
        url=runs.url if runs else "",
        inferences=totals[0],
        errors=totals[1],
        updated_at=runs.updated_at if runs else 0.0,
        drift=drift,
    )


def _drift(window: TelemetryWindow | None, state: DriftState | None) -> Drift:
    current = state if state and window and state.sha256 == window.sha256 else None
    return Drift(
        device_changed=bool(window and window.drift_changed),
        device_score=window.drift_score if window else 0.0,
        registry_changed=bool(current and current.changed),
        registry_harmful=bool(current and current.harmful),
        registry_score=current.score if current else 0.0,
        feature=current.feature if current else "",
        samples=current.samples if current else 0,
        since=current.since if current else 0.0,
    )


def _counts(session: Session, lines: Sequence[DeviceLine]) -> Counts:
    health = [{model.health for model in line.models} for line in lines]
    online = sum(line.online for line in lines)
    revoked = sum(n for (_, gone), n in Devices(session).count().items() if gone)
    return Counts(
        devices=len(lines),
        online=online,
        offline=len(lines) - online,
        revoked=revoked,
        updating=sum("updating" in found for found in health),
        failed=sum("bad" in found for found in health),
        drifting=sum(line.drifting for line in lines),
        rollouts=Rollouts(session).count_by_state(),
    )
