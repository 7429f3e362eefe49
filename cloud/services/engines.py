"""Engines for twins: a builder device makes one of what it runs, and hands it over its own link.

Rules:
- An operator names builders; only a device that runs the artifact may be ordered to build of it, because its
  bytes came to it by the signed way.
- The digest is what the device attested under its own key. Blocks may come in any order, twice or never; the engine is
  taken when all of them give that digest, and refused when they give another.
- An engine that says, or shows, that it carries code for the host's processor is refused: a twin would run it.
- What is taken is an unproven artifact for the builder's exact twins; another device has to prove it
  (`cloud.services.proving`), and only then may a release take it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.errors import InputError
from cloud.services import artifacts, engine_artifacts
from fleet.errors import OutriderError
from fleet.registry.errors import ConflictError, NotFoundError
from fleet.registry.repositories import Devices, Engines, Models, Trust
from fleet.registry.tables import Artifact, Device, EngineBuild
from fleet.wire.messages import EngineBlock, EngineFailure, EngineOffer
from ota.errors import TransferError
from ota.proving import engine
from ota.proving.engine import BLOCK_BYTES, ENGINE, EngineState, EngineTrigger
from ota.transfer.bitmap import Bitmap

BUILD_S: Final = 6 * 3600.0
"""A device that has said nothing for so long is not waited for."""


def name(unit: Unit, device_id: str, *, on: bool, by: str) -> Device:
    """Name a device a builder for its twins, or take that back.

    Raises:
        NotFoundError: no such device.
        InputError: it was revoked, or nobody knows yet what its engines depend on.
    """
    device = Devices(unit.session).get_for_update(device_id)
    if on and (device.revoked_at is not None or not engine.twin_of(device.environment)):
        raise InputError(
            f"expected a device that may connect and has told what its engines depend on "
            f"({', '.join(engine.TWIN_KEYS)}), {device_id} has told {sorted(device.environment) or 'nothing'}"
        )
    device.builder_class = device.hardware_class if on else ""
    action = "device.builder" if on else "device.builder_off"
    log.record(unit, actor=by, action=action, subject=device_id, hardware_class=device.hardware_class)  # fmt: skip
    unit.publish("device", device=device_id)
    return device


def order(context: Context, sha256: str, *, device: str = "", by: str) -> EngineBuild:
    """Order an engine of an artifact from a builder that runs it.

    Raises:
        NotFoundError: no such artifact or device.
        ConflictError: the builder has an order already.
        InputError: no builder of the class runs the artifact.
    """
    with context.unit() as unit:
        artifact = Models(unit.session).find_artifact(sha256)
        if artifact is None:
            raise NotFoundError(f"expected the digest of an artifact, found {sha256!r}")
        builder = _builder(unit, artifact, device)
        Devices(unit.session).get_for_update(builder.id)
        known = Engines(unit.session).open_of_device(builder.id)
        if known is not None:
            raise ConflictError(
                f"{builder.id} builds already: {known.id}, {known.state}; wait for it or cancel it"
            )
        row = EngineBuild(
            id=context.ids(),
            artifact=sha256,
            model=artifact.model,
            version=artifact.version,
            target=artifact.target,
            device=builder.id,
            hardware_class=builder.builder_class,
            created_at=unit.now,
            created_by=by,
            heard_at=unit.now,
        )
        Engines(unit.session).add(row)
        log.record(unit, actor=by, action="engine.order", subject=f"{row.model}@{row.version}",
                   build=row.id, artifact=sha256, device=builder.id)  # fmt: skip
        unit.publish("engine", build=row.id, device=builder.id)
    return row


def cancel(context: Context, build_id: str, *, by: str) -> EngineBuild:
    """Call an order off; one that has ended already stays as it is. Raises NotFoundError."""
    with context.unit() as unit:
        row = _locked(unit, build_id)
        if row.finished_at is None:
            _end(unit, context, row, EngineTrigger.CALLED_OFF, f"called off by {by}", by=by)
    return row


def offered(context: Context, device: str, message: EngineOffer, sealed: bytes) -> None:
    """A builder attests an engine; what nobody ordered of it changes nothing."""
    with context.unit() as unit:
        row = _of(unit, device, message.id)
        if row is None or (message.artifact, row.engine) == (row.artifact, message.engine):
            return
        row.heard_at = unit.now
        why = _unfit(unit, row, message)
        if why:
            _end(unit, context, row, EngineTrigger.MISSED, why, by=f"device:{device}")
            return
        known = row.state == EngineState.RECEIVING.value
        trigger = EngineTrigger.REOFFERED if known else EngineTrigger.OFFERED
        row.state = ENGINE.next(EngineState(row.state), trigger).value
        row.engine, row.length_bytes = message.engine, message.length_bytes
        row.environment, row.offer = dict(message.environment), sealed
        row.bitmap = Bitmap(_count(message.length_bytes)).to_bytes()
        row.asked_at = 0.0
        _part(context, row).unlink(missing_ok=True)
        unit.publish("engine", build=row.id, device=device)


def failed(context: Context, device: str, message: EngineFailure) -> None:
    """A builder has no engine for an order."""
    with context.unit() as unit:
        row = _of(unit, device, message.id)
        if row is not None:
            reason = f"{message.code}: {message.text}"
            _end(unit, context, row, EngineTrigger.MISSED, reason, by=f"device:{device}")


def received(context: Context, device: str, message: EngineBlock) -> bool:
    """Take a block; returns whether the builder should be asked for more now.

    Raises:
        TransferError: a block that cannot be one of the engine's.
    """
    with context.unit() as unit:
        row = _of(unit, device, message.id)
        if row is None or row.state != EngineState.RECEIVING.value or row.engine != message.engine:
            return False
        have = Bitmap(_count(row.length_bytes), row.bitmap)
        _check(row, have, message)
        row.heard_at = unit.now
        if message.index not in have:
            _write(_part(context, row), message.index * BLOCK_BYTES, message.data)
            have.add(message.index)
            row.bitmap = have.to_bytes()
        if not have.full:
            return len(have) % 16 == 0
        _complete(unit, context, row)
        return False


def tick(context: Context) -> int:
    """End what cannot go on or took too long; returns how many ended."""
    ended = 0
    with context.unit() as unit:
        for row in Engines(unit.session).open():
            device = Devices(unit.session).get(row.device)
            if device.revoked_at is not None or device.builder_class != row.hardware_class:
                why = f"{device.id} is no builder of {row.hardware_class} any more"
                _end(unit, context, row, EngineTrigger.CALLED_OFF, why, by="cloud")
            elif unit.now > row.heard_at + BUILD_S:
                why = f"not heard of within {BUILD_S / 3600:.0f} h"
                _end(unit, context, row, EngineTrigger.TIMED_OUT, why, by="cloud")
            else:
                continue
            ended += 1
    return ended


def missing(row: EngineBuild, *, limit: int) -> list[int]:
    """The first blocks that have not arrived."""
    have = Bitmap(_count(row.length_bytes), row.bitmap)
    return [index for index, _ in zip(have.missing(), range(limit), strict=False)]


def _builder(unit: Unit, artifact: Artifact, wanted: str) -> Device:
    if artifact.built_from:
        raise InputError("expected an artifact to build an engine of, found an engine")
    able = Engines(unit.session).builders(artifact.hardware_classes)
    if wanted:
        Devices(unit.session).get(wanted)
        able = [device for device in able if device.id == wanted]
    for device in able:
        runs = Devices(unit.session).model(device.id, artifact.model)
        should = Trust(unit.session).desired_model(device.id, artifact.model)
        if (
            runs is not None
            and should is not None
            and runs.running_sha256 == should.artifact == artifact.sha256
        ):
            return device
    raise InputError(
        f"expected a builder of {', '.join(artifact.hardware_classes)} that runs {artifact.model}@"
        f"{artifact.version}, found {', '.join(d.id for d in able) or 'none'}; name one (outrider device "
        "builder DEVICE) and roll the release out to it"
    )


def _unfit(unit: Unit, row: EngineBuild, message: EngineOffer) -> str:
    device = Devices(unit.session).get(row.device)
    twin = engine.twin_of(message.environment)
    if message.artifact != row.artifact:
        return f"expected an engine of {row.artifact[:12]}, found one of {message.artifact[:12]}"
    if not 0 < message.length_bytes <= engine.MAX_ENGINE_BYTES or len(message.engine) != 64:
        return f"expected an engine of 1 to {engine.MAX_ENGINE_BYTES} bytes, found {message.length_bytes}"
    if message.host_code:
        return "the engine embeds code for the host's processor; build it without version compatibility"
    if not twin or twin != engine.twin_of(device.environment):
        return f"expected an engine for {engine.twin_of(device.environment)}, found one for {twin}"
    return ""


def _check(row: EngineBuild, have: Bitmap, message: EngineBlock) -> None:
    if not 0 <= message.index < have.count:
        raise TransferError(f"expected a block of 0 to {have.count - 1}, found {message.index}")
    due = min(BLOCK_BYTES, row.length_bytes - message.index * BLOCK_BYTES)
    if len(message.data) != due:
        raise TransferError(
            f"expected {due} bytes in block {message.index}, found {len(message.data)}"
        )


def _complete(unit: Unit, context: Context, row: EngineBuild) -> None:
    data = _part(context, row).read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    by = f"device:{row.device}"
    why = engine.host_code(data)
    if digest != row.engine:
        why = f"expected the engine {row.engine} that the device attested, found {digest}"
    elif why:
        why = f"the engine carries code for the host's processor: {why}"
    if why:
        _end(unit, context, row, EngineTrigger.MISSED, why, by=by)
        return
    source = Models(unit.session).find_artifact(row.artifact)
    if source is None:
        raise AssertionError(f"the artifact of build {row.id} is gone")
    try:
        made = engine_artifacts.derive(context, source, row, data)
    except OutriderError as error:
        _end(unit, context, row, EngineTrigger.MISSED, str(error), by=by)
        return
    derived = artifacts.enter(unit, made, model=row.model, version=row.version, result={})
    derived.twin = engine.twin_of(row.environment)
    derived.built_from, derived.built_by = row.artifact, row.device
    row.derived = derived.sha256
    unit.session.flush()
    text = "built; another device has to prove it"
    _end(unit, context, row, EngineTrigger.COMPLETE, text, by=by)


def _of(unit: Unit, device: str, build_id: str) -> EngineBuild | None:
    Devices(unit.session).get_for_update(device)
    row = Engines(unit.session).open_of_device(device)
    return row if row is not None and row.id == build_id else None


def _locked(unit: Unit, build_id: str) -> EngineBuild:
    Devices(unit.session).get_for_update(Engines(unit.session).get(build_id).device)
    return Engines(unit.session).get(build_id)


def _end(
    unit: Unit, context: Context, row: EngineBuild, trigger: EngineTrigger, reason: str, *, by: str
) -> None:
    row.finished_at, row.reason = unit.now, reason[:2000]
    row.state = ENGINE.next(EngineState(row.state), trigger).value
    unit.session.flush()
    _part(context, row).unlink(missing_ok=True)
    log.record(unit, actor=by, action=f"engine.{row.state}", subject=f"{row.model}@{row.version}",
               build=row.id, device=row.device, engine=row.engine, reason=row.reason)  # fmt: skip
    unit.publish("engine", build=row.id, device=row.device)
    unit.publish("model", model=row.model, version=row.version)


def _count(length_bytes: int) -> int:
    return -(-length_bytes // BLOCK_BYTES)


def _part(context: Context, row: EngineBuild) -> Path:
    return context.settings.path("work", "engines", f"{row.id}.part")


def _write(file: Path, offset: int, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)
