"""Engines that builder devices make for their twins."""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field

from fleet.registry.tables.base import Row, big, json_dict, one_of

ENGINE_STATES = ("ordered", "receiving", "built", "refused", "cancelled", "expired")
_OPEN = text("state IN ('ordered', 'receiving')")


class EngineBuild(Row, table=True):
    """One order to one builder.

    Attributes:
        artifact: what it is built from; the builder runs it.
        engine, length_bytes, environment: what the device attested.
        bitmap: blocks that have arrived, see `ota.transfer.bitmap`.
        offer: the envelope of the attestation.
        derived: the artifact that came of it.
        asked_at: when the device was last asked for something.
    """

    __tablename__: ClassVar[str] = "engine_build"
    __table_args__ = (
        one_of("state", ENGINE_STATES, name="state"),
        CheckConstraint(
            "(state IN ('ordered', 'receiving')) = (finished_at IS NULL)", name="finished"
        ),
        CheckConstraint("state <> 'built' OR derived IS NOT NULL", name="built_is_there"),
        CheckConstraint("length_bytes >= 0", name="length_not_negative"),
        Index(
            "ix_engine_build_open",
            "device",
            unique=True,
            sqlite_where=_OPEN,
            postgresql_where=_OPEN,
        ),
    )

    id: str = Field(primary_key=True)
    artifact: str = Field(foreign_key="artifact.sha256", index=True)
    model: str
    version: str
    target: str
    device: str = Field(foreign_key="device.id")
    hardware_class: str
    state: str = "ordered"
    engine: str = ""
    length_bytes: int = big()
    environment: dict[str, str] = json_dict()
    bitmap: bytes = b""
    offer: bytes = b""
    derived: str | None = Field(default=None, foreign_key="artifact.sha256")
    reason: str = ""
    created_at: float
    created_by: str
    asked_at: float = 0.0
    heard_at: float = 0.0
    finished_at: float | None = None
