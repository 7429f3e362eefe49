"""What devices sent up, each row stored once.

Rules:
- (device, boot_epoch, seq) is unique over all kinds: `Received` is the ledger, and each kind's own
  table refers to it. A number that is missing between two others is a gap that can be counted.
"""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index
from sqlmodel import Field

from fleet.registry.tables.base import Row, big_key, json_dict, one_of

KINDS = ("reported", "event", "telemetry")


def _ledger() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["device", "boot_epoch", "seq"],
        ["received.device", "received.boot_epoch", "received.seq"],
    )


class Received(Row, table=True):
    """One upward row that was committed; what the cloud acknowledges.

    Attributes:
        covers: how many of the device's windows this row stands for (old windows merge).
    """

    __tablename__: ClassVar[str] = "received"
    __table_args__ = (
        one_of("kind", KINDS, name="kind"),
        CheckConstraint("seq >= 0", name="seq_not_negative"),
        CheckConstraint("covers >= 1", name="covers_positive"),
    )

    device: str = Field(foreign_key="device.id", primary_key=True)
    boot_epoch: str = Field(primary_key=True)
    seq: int = big_key()
    kind: str
    covers: int = 1
    received_at: float


class Report(Row, table=True):
    """A step of an update, as the device reported it."""

    __tablename__: ClassVar[str] = "report"
    __table_args__ = (
        _ledger(),
        Index("ix_report_device_at", "device", "at"),
        Index("ix_report_sha256_state", "sha256", "state"),
    )

    device: str = Field(primary_key=True)
    boot_epoch: str = Field(primary_key=True)
    seq: int = big_key()
    model: str
    release: str
    sha256: str
    counter: int = Field(default=0)
    state: str
    terminal: bool
    progress: float
    error_code: str = ""
    detail: str = ""
    figures: dict[str, float | None] = json_dict()
    facts: dict[str, str] = json_dict()
    at: float
    received_at: float


class DeviceEvent(Row, table=True):
    """An event that a device sent."""

    __tablename__: ClassVar[str] = "device_event"
    __table_args__ = (
        _ledger(),
        one_of("level", ("info", "warning", "error"), name="level"),
        Index("ix_device_event_device_at", "device", "at"),
    )

    device: str = Field(primary_key=True)
    boot_epoch: str = Field(primary_key=True)
    seq: int = big_key()
    code: str
    text: str
    level: str
    model: str = ""
    release: str = ""
    figures: dict[str, float | None] = json_dict()
    at: float
    received_at: float


class TelemetryWindow(Row, table=True):
    """A telemetry window.

    Attributes:
        window: the `fleet.telemetry.window.Window` as MessagePack; the other columns are copies to
            search and sum by.
    """

    __tablename__: ClassVar[str] = "telemetry_window"
    __table_args__ = (
        _ledger(),
        CheckConstraint("inferences >= 0 AND errors >= 0", name="counts_not_negative"),
        CheckConstraint("merged >= 1", name="merged_positive"),
        Index("ix_telemetry_window_device_model_ended", "device", "model", "ended"),
        Index("ix_telemetry_window_sha256_ended", "sha256", "ended"),
    )

    device: str = Field(primary_key=True)
    boot_epoch: str = Field(primary_key=True)
    seq: int = big_key()
    model: str
    release: str
    sha256: str
    started: float
    ended: float
    inferences: int
    errors: int = 0
    merged: int = 1
    drift_changed: bool = False
    drift_score: float = 0.0
    window: bytes
    received_at: float


class DriftState(Row, table=True):
    """The registry's own verdict on a device's recent windows of one artifact."""

    __tablename__: ClassVar[str] = "drift_state"

    device: str = Field(foreign_key="device.id", primary_key=True)
    model: str = Field(primary_key=True)
    sha256: str
    changed: bool
    harmful: bool
    score: float
    feature: str
    samples: int
    windows: int
    since: float
    updated_at: float
    detail: dict[str, Any] = json_dict()
