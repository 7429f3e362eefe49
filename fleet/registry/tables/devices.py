"""Devices: who they are, how they were admitted, what they run."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field

from fleet.registry.tables.base import Row, big, big_key, json_dict, json_list


class Device(Row, table=True):
    """A device that was enrolled.

    Attributes:
        labels: given by operators; they win over `reported_labels` of the same name.
        runtimes: list of `fleet.wire.messages.RuntimeInfo` in the device's order of preference.
        trust: version of each trusted metadata file, as the last birth said.
        assignment_counter: counter of the newest assignment that the device said it holds.
        message_counter: counter of the last envelope that the cloud sealed for it.
        proving_class: the hardware class that an operator named it a proving device of; empty: none.
        builder_class: the same for a builder.
        environment: what engines built on it depend on, as the last birth said.
    """

    __tablename__: ClassVar[str] = "device"
    __table_args__ = (
        CheckConstraint("length(id) BETWEEN 1 AND 64", name="id_length"),
        CheckConstraint("assignment_counter >= 0", name="counter_not_negative"),
    )

    id: str = Field(primary_key=True)
    tenant: str = Field(index=True)
    created_at: float
    labels: dict[str, str] = json_dict()
    reported_labels: dict[str, str] = json_dict()
    hardware_class: str = ""
    agent_version: str = ""
    boot_epoch: str = ""
    runtimes: list[dict[str, Any]] = json_list()
    trust: dict[str, int] = json_dict()
    assignment_counter: int = big()
    message_counter: int = big()
    buffered: int = 0
    online: bool = False
    birth_at: float | None = None
    last_seen_at: float | None = None
    revoked_at: float | None = None
    proving_class: str = ""
    builder_class: str = ""
    environment: dict[str, str] = json_dict()


class DeviceKey(Row, table=True):
    """A certificate that the cloud issued to a device, and the public key in it.

    Attributes:
        serial: the certificate's serial number, lower-case hex.
        key_id: `fleet.wire.envelope.key_id` of the public key.
        public_key: DER SubjectPublicKeyInfo.
        certificate: PEM.
    """

    __tablename__: ClassVar[str] = "device_key"
    __table_args__ = (CheckConstraint("not_after > not_before", name="validity"),)

    serial: str = Field(primary_key=True)
    device: str = Field(foreign_key="device.id", index=True)
    key_id: str = Field(index=True)
    public_key: bytes
    certificate: str
    not_before: float
    not_after: float
    created_at: float
    revoked_at: float | None = None


class Claim(Row, table=True):
    """A single-use code that admits one device; only the code's digest is kept."""

    __tablename__: ClassVar[str] = "claim"
    __table_args__ = (
        CheckConstraint("expires_at > created_at", name="expires_later"),
        CheckConstraint("used_at IS NULL OR used_at <= expires_at", name="used_in_time"),
    )

    code_sha256: str = Field(primary_key=True)
    tenant: str
    device: str = Field(index=True)
    labels: dict[str, str] = json_dict()
    created_at: float
    created_by: str
    expires_at: float
    used_at: float | None = None


class DeviceModel(Row, table=True):
    """What a device runs for one model, and what it is doing about it, by its own latest word.

    Attributes:
        release, sha256, state, progress: the update that it last reported on.
        running_release, running_sha256: what answers requests.
        counter: the assignment that `state` is about.
        boot_epoch, seq: identity of the report that set this row; empty when a birth did.
        terminal: the state is final for `counter`; only a newer assignment changes it.
    """

    __tablename__: ClassVar[str] = "device_model"
    __table_args__ = (CheckConstraint("progress BETWEEN 0 AND 1", name="progress_share"),)

    device: str = Field(foreign_key="device.id", primary_key=True)
    model: str = Field(primary_key=True)
    release: str = ""
    sha256: str = ""
    state: str = "idle"
    progress: float = 0.0
    terminal: bool = False
    running_release: str = ""
    running_sha256: str = ""
    previous_release: str = ""
    url: str = ""
    error_code: str = ""
    detail: str = ""
    figures: dict[str, float | None] = json_dict()
    counter: int = big()
    boot_epoch: str = ""
    seq: int = big()
    updated_at: float = 0.0


class DesiredModel(Row, table=True):
    """What a device should run for one model; the sum of these is its assignment."""

    __tablename__: ClassVar[str] = "desired_model"

    device: str = Field(foreign_key="device.id", primary_key=True)
    model: str = Field(primary_key=True)
    release: str
    artifact: str = Field(foreign_key="artifact.sha256")
    rollout: str | None = Field(default=None, foreign_key="rollout.id")
    updated_at: float


class Assignment(Row, table=True):
    """A signed assignment: the director's targets metadata for one device.

    Attributes:
        models: release by model.
        document: the signed ``targets.json``.
    """

    __tablename__: ClassVar[str] = "assignment"
    __table_args__ = (
        CheckConstraint("counter > 0", name="counter_positive"),
        Index("ix_assignment_device_created_at", "device", "created_at"),
    )

    device: str = Field(foreign_key="device.id", primary_key=True)
    counter: int = big_key()
    models: dict[str, str] = json_dict()
    document: bytes
    rollout: str | None = Field(default=None, foreign_key="rollout.id")
    created_at: float
    expires_at: float
