"""Rollouts: the persisted state of `ota.rollout`, and each member's place in it."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Index
from sqlmodel import Field

from fleet.registry.tables.base import Row, big, json_dict, one_of

ROLLOUT_STATES = (
    "draft", "awaiting_approval", "scheduled", "running", "paused", "succeeded", "aborted", "rolled_back",
)  # fmt: skip
MEMBER_STATES = (
    "pending", "assigned", "stale", "committed", "failed", "incompatible", "restored",
)  # fmt: skip


class Rollout(Row, table=True):
    """A rollout; `machine` is the pure machine's state, the rest is for reading.

    Attributes:
        cohort: the query that chose the devices.
        spec: waves, gates, soak and timeouts, as the machine takes them.
        revision: grows by one at each step; a writer that read an older one is refused.
    """

    __tablename__: ClassVar[str] = "rollout"
    __table_args__ = (
        one_of("state", ROLLOUT_STATES, name="state"),
        CheckConstraint("revision >= 0", name="revision_not_negative"),
    )

    id: str = Field(primary_key=True)
    release: str = Field(foreign_key="release.id", index=True)
    model: str = Field(index=True)
    state: str = Field(default="draft", index=True)
    reason: str = ""
    cohort: dict[str, Any] = json_dict()
    spec: dict[str, Any] = json_dict()
    machine: dict[str, Any] = json_dict()
    revision: int = 0
    created_at: float
    created_by: str
    updated_at: float


class RolloutDevice(Row, table=True):
    """A member of a rollout: its variant, what it should have run before, and where it stands.

    Attributes:
        position: the order in which members are taken.
        state: `ota.rollout.tables.DeviceStatus`, a copy of the machine's.
        artifact: the variant; none when no variant suits the device, then `reason` says why.
        previous_release, previous_artifact: what `Restore` goes back to; empty when that is nothing.
        counter: the assignment that put the release on the device; 0 before that.
    """

    __tablename__: ClassVar[str] = "rollout_device"
    __table_args__ = (
        one_of("state", MEMBER_STATES, name="state"),
        CheckConstraint(
            "artifact IS NOT NULL OR state = 'incompatible'", name="member_has_a_variant"
        ),
        CheckConstraint(
            "counter > 0 OR state IN ('pending', 'incompatible')", name="assigned_by_a_counter"
        ),
        CheckConstraint(
            "(previous_release = '') = (previous_artifact IS NULL)", name="previous_is_whole"
        ),
    )

    rollout: str = Field(foreign_key="rollout.id", primary_key=True)
    device: str = Field(foreign_key="device.id", primary_key=True, index=True)
    position: int
    state: str = "pending"
    wave: int = -1
    artifact: str | None = Field(default=None, foreign_key="artifact.sha256")
    previous_release: str = ""
    previous_artifact: str | None = Field(default=None, foreign_key="artifact.sha256")
    reason: str = ""
    counter: int = big()
    updated_at: float


class RolloutStep(Row, table=True):
    """What happened in a rollout, for people; numbered from 1 within it."""

    __tablename__: ClassVar[str] = "rollout_step"
    __table_args__ = (Index("ix_rollout_step_at", "at"),)

    rollout: str = Field(foreign_key="rollout.id", primary_key=True)
    number: int = Field(primary_key=True)
    at: float
    code: str
    text: str
