"""Engines that builders make for their twins, as they are shown."""

from __future__ import annotations

from sqlmodel import Session

from cloud.services.views.base import View
from fleet.registry.repositories import Engines
from fleet.registry.tables import EngineBuild
from ota.proving.engine import BLOCK_BYTES
from ota.transfer.bitmap import Bitmap


class EngineLine(View, frozen=True):
    """One order to one builder.

    Attributes:
        engine, length_bytes, environment: what the device attested; empty before that.
        progress: share of the engine that has arrived.
        derived: digest of the artifact that came of it; None before that.
    """

    id: str
    artifact: str
    model: str
    version: str
    target: str
    device: str
    hardware_class: str
    state: str
    reason: str
    engine: str
    length_bytes: int
    environment: dict[str, str]
    progress: float
    derived: str | None
    created_at: float
    created_by: str
    finished_at: float | None


def engines(session: Session) -> list[EngineLine]:
    """Orders, newest first."""
    return [_line(row) for row in Engines(session).all()]


def engine(session: Session, build_id: str) -> EngineLine:
    """One order. Raises NotFoundError."""
    return _line(Engines(session).get(build_id))


def _line(row: EngineBuild) -> EngineLine:
    count = -(-row.length_bytes // BLOCK_BYTES)
    return EngineLine(
        id=row.id,
        artifact=row.artifact,
        model=row.model,
        version=row.version,
        target=row.target,
        device=row.device,
        hardware_class=row.hardware_class,
        state=row.state,
        reason=row.reason,
        engine=row.engine,
        length_bytes=row.length_bytes,
        environment=dict(row.environment),
        progress=len(Bitmap(count, row.bitmap)) / count if count else 0.0,
        derived=row.derived,
        created_at=row.created_at,
        created_by=row.created_by,
        finished_at=row.finished_at,
    )
