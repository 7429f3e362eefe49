"""What devices send up, into the registry.

Rules:
- Every function returns after its commit; only then may the caller acknowledge.
- A row is told apart by (device, boot epoch, sequence); what came before is acknowledged again and
  changes nothing.
- A device's terminal report for an assignment never regresses, and a newer assignment's report is
  never overwritten by an older one's.
- The caller has checked the signature; a message that names another device than its topic never comes here.
"""

from __future__ import annotations

from cloud.context import Context, Unit
from cloud.errors import DeniedError
from cloud.services import drift, proving, rollouts, trust
from cloud.services.proving import Sealed
from cloud.services.releases import id_of
from fleet.registry.repositories import Devices, Telemetry
from fleet.registry.tables import (
    Device,
    DeviceEvent,
    DeviceModel,
    Received,
    Report,
    TelemetryWindow,
)
from fleet.telemetry import stored
from fleet.telemetry.window import Window
from fleet.wire.messages import Birth, Desired, Event, ModelStatus, Reported, Status, TelemetryBatch

_RUNNING = frozenset({"idle", "committed"})

Acked = dict[str, list[int]]
"""Sequence numbers by boot epoch, as `fleet.wire.messages.Ack` carries them."""


def birth(context: Context, message: Birth) -> Desired:
    """A device has connected; returns what it should run.

    Raises:
        NotFoundError: no such device.
        DeniedError: it was revoked.
    """
    with context.unit() as unit:
        concerned = rollouts.lock(unit, message.device)
        device = _admitted(unit, message.device)
        device.hardware_class = message.hardware_class
        device.agent_version = message.agent_version
        device.boot_epoch = message.boot_epoch
        device.runtimes = [
            {"name": r.name, "version": r.version, "available": r.available, "reason": r.reason}
            for r in message.runtimes
        ]
        device.reported_labels = dict(message.labels)
        device.environment = dict(message.environment)
        device.trust = dict(message.trust)
        device.assignment_counter = message.assignment_counter
        device.buffered = message.buffered
        device.online, device.birth_at = True, unit.now
        for status in message.models:
            _model_at_birth(unit, device, status, message)
        trust.supersede(
            unit,
            context.settings,
            device.id,
            counter=message.assignment_counter,
            sha256=message.assignment_sha256,
        )
        rollouts.on_presence(unit, context, concerned, device.id, online=True)
        unit.publish("device", device=device.id)
    return trust.desired_for(context, message.device, nonce=message.nonce)


def status(context: Context, message: Status) -> None:
    """A device's presence changed; ``online=False`` is its will."""
    with context.unit() as unit:
        concerned = rollouts.lock(unit, message.device)
        device = Devices(unit.session).find(message.device)
        if device is None or device.revoked_at is not None:
            return
        device.online = message.online
        device.last_seen_at = unit.now
        rollouts.on_presence(unit, context, concerned, device.id, online=message.online)
        unit.publish("device", device=device.id)


def reported(context: Context, message: Reported, sealed: Sealed | None = None) -> Acked:
    """A step of an update; feeds the rollouts and the trial that wait for it.

    Args:
        context: the cloud.
        message: the report.
        sealed: as the device signed it, and by which key; a trial is judged by nothing less.

    Raises:
        NotFoundError: no such device.
        DeniedError: it was revoked.
    """
    with context.unit() as unit:
        release = id_of(message.model, message.release)
        concerned = rollouts.lock(unit, message.device, release=release)
        device = _admitted(unit, message.device)
        device.assignment_counter = max(device.assignment_counter, message.assignment_counter)
        if _first_time(unit, device, message.boot_epoch, message.seq, "reported"):
            Telemetry(unit.session).add(_report(message, unit.now))
            _model_at_report(unit, message)
            rollouts.on_report(unit, context, concerned, message)
            proving.on_report(unit, context, message, sealed)
            unit.publish("device", device=device.id)
    return {message.boot_epoch: [message.seq]}


def event(context: Context, message: Event) -> Acked:
    """Something that happened on a device.

    Raises:
        NotFoundError: no such device.
        DeniedError: it was revoked.
    """
    with context.unit() as unit:
        device = _admitted(unit, message.device)
        if _first_time(unit, device, message.boot_epoch, message.seq, "event"):
            row = DeviceEvent(
                device=device.id,
                boot_epoch=message.boot_epoch,
                seq=message.seq,
                code=message.code,
                text=message.text,
                level=message.level.value,
                model=message.model,
                release=id_of(message.model, message.release),
                figures=dict(message.figures),
                at=message.at,
                received_at=unit.now,
            )
            Telemetry(unit.session).add(row)
            unit.publish("event", device=device.id, code=message.code, level=message.level.value)
    return {message.boot_epoch: [message.seq]}


def telemetry(context: Context, message: TelemetryBatch) -> Acked:
    """Windows; the registry's own drift detector looks at what is new.

    Raises:
        NotFoundError: no such device.
        DeniedError: it was revoked.
    """
    acked: Acked = {}
    with context.unit() as unit:
        device = _admitted(unit, message.device)
        fresh: list[Window] = []
        for window in message.windows:
            acked.setdefault(window.boot_epoch, []).append(window.seq)
            covers = max(1, window.merged)
            if _first_time(unit, device, window.boot_epoch, window.seq, "telemetry", covers=covers):
                Telemetry(unit.session).add(_window(device.id, window, unit.now))
                fresh.append(window)
        unit.session.flush()
        for model, sha256 in sorted({(w.model, w.sha256) for w in fresh}):
            drift.update(unit, device=device.id, model=model, sha256=sha256)
            unit.publish("window", device=device.id, model=model)
    return acked


def _admitted(unit: Unit, device_id: str) -> Device:
    device = Devices(unit.session).get_for_update(device_id)
    if device.revoked_at is not None:
        raise DeniedError(f"device {device_id!r} was revoked; it must be enrolled anew")
    device.last_seen_at = unit.now
    return device


def _first_time(
    unit: Unit, device: Device, boot_epoch: str, seq: int, kind: str, *, covers: int = 1
) -> bool:
    row = Received(
        device=device.id,
        boot_epoch=boot_epoch,
        seq=seq,
        kind=kind,
        covers=covers,
        received_at=unit.now,
    )
    return Telemetry(unit.session).first_time(row)


def _model_at_birth(unit: Unit, device: Device, status: ModelStatus, message: Birth) -> None:
    """Take over what the device says it runs; a report's figures stay while they still fit.

    A birth may be overtaken by a report, or come again later: it changes nothing when it speaks of an
    older assignment than the registry knows, or of one that has ended.
    """
    devices = Devices(unit.session)
    row = devices.model(device.id, status.model)
    if row is None:
        row = DeviceModel(device=device.id, model=status.model)
    elif status.counter < row.counter or (row.terminal and status.counter == row.counter):
        row.previous_release, row.url = status.previous_release, status.url
        return
    release = id_of(status.model, status.release)
    same = (row.release, row.sha256, row.state) == (release, status.sha256, status.state)
    row.release, row.sha256, row.state = release, status.sha256, status.state
    row.previous_release, row.url = status.previous_release, status.url
    if status.state in _RUNNING:
        row.running_release, row.running_sha256 = release, status.sha256
    if not same:
        row.terminal, row.progress, row.error_code, row.detail = False, 0.0, "", ""
        row.boot_epoch, row.seq, row.counter = message.boot_epoch, 0, status.counter
    row.updated_at = unit.now
    devices.add(row)


def _model_at_report(unit: Unit, message: Reported) -> None:
    """Take over a report's state, unless it is older than what the registry holds."""
    devices = Devices(unit.session)
    row = devices.model(message.device, message.model)
    if row is None:
        row = DeviceModel(device=message.device, model=message.model)
    elif _is_older(row, message):
        return
    release = id_of(message.model, message.release)
    row.release, row.sha256, row.state = release, message.sha256, message.state
    if message.state in _RUNNING:
        row.running_release, row.running_sha256 = release, message.sha256
    row.counter, row.terminal = message.assignment_counter, message.terminal
    row.progress = min(1.0, max(0.0, message.progress))
    row.error_code, row.detail = message.error_code, message.detail
    row.figures = dict(message.figures)
    row.url = message.url or row.url
    row.boot_epoch, row.seq, row.updated_at = message.boot_epoch, message.seq, unit.now
    devices.add(row)


def _is_older(row: DeviceModel, message: Reported) -> bool:
    if message.assignment_counter != row.counter:
        return message.assignment_counter < row.counter
    if row.terminal and not message.terminal:
        return True
    return message.boot_epoch == row.boot_epoch and message.seq < row.seq


def _report(message: Reported, now: float) -> Report:
    return Report(
        device=message.device,
        boot_epoch=message.boot_epoch,
        seq=message.seq,
        model=message.model,
        release=id_of(message.model, message.release),
        sha256=message.sha256,
        counter=message.assignment_counter,
        state=message.state,
        terminal=message.terminal,
        progress=message.progress,
        error_code=message.error_code,
        detail=message.detail,
        figures=dict(message.figures),
        facts=dict(message.facts),
        at=message.at,
        received_at=now,
    )


def _window(device: str, window: Window, now: float) -> TelemetryWindow:
    verdict = window.drift
    return TelemetryWindow(
        device=device,
        boot_epoch=window.boot_epoch,
        seq=window.seq,
        model=window.model,
        release=id_of(window.model, window.release),
        sha256=window.sha256,
        started=window.started,
        ended=window.ended,
        inferences=window.inferences,
        errors=window.errors,
        merged=max(1, window.merged),
        drift_changed=bool(verdict and verdict.changed),
        drift_score=verdict.score if verdict else 0.0,
        window=stored.encode(window),
        received_at=now,
    )
