"""Trials of artifacts on proving devices."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field

from fleet.registry.tables.base import Row, big, json_dict, json_list, one_of

TRIAL_STATES = ("queued", "running", "proven", "refused", "cancelled", "expired")
_RUNS = text("state = 'running'")
_OPEN = text("state IN ('queued', 'running')")


class Trial(Row, table=True):
    """One artifact on one proving device, and what became of it.

    Attributes:
        release: the candidate that was signed for it; none while the trial is queued.
        attested_by: public keys (PEM) of the hosts that attested the artifact when the trial was asked for.
        counter: the assignment that put the candidate on the device; 0 while it is queued.
        previous_release, previous_artifact, previous_rollout: what the device goes back to.
        figures, facts: as the device signed them.
        gates: every limit with what was found, see `ota.proving.judge.Judged`.
        report: the device's signed envelope, kept so that it can be verified again.
        report_key: the device's public key that it was verified by, DER SubjectPublicKeyInfo.
    """

    __tablename__: ClassVar[str] = "trial"
    __table_args__ = (
        one_of("state", TRIAL_STATES, name="state"),
        CheckConstraint(
            "(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished"
        ),
        CheckConstraint("state <> 'running' OR counter > 0", name="assigned_by_a_counter"),
        CheckConstraint("state <> 'proven' OR length(report) > 0", name="proven_by_a_report"),
        Index(
            "ix_trial_running", "device", unique=True, sqlite_where=_RUNS, postgresql_where=_RUNS
        ),
        Index("ix_trial_open", "artifact", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
    )

    id: str = Field(primary_key=True)
    artifact: str = Field(foreign_key="artifact.sha256", index=True)
    model: str = Field(index=True)
    version: str
    target: str
    device: str = Field(foreign_key="device.id", index=True)
    hardware_class: str
    state: str = "queued"
    release: str | None = Field(default=None, foreign_key="release.id")
    counter: int = big()
    previous_release: str = ""
    previous_artifact: str | None = Field(default=None, foreign_key="artifact.sha256")
    previous_rollout: str | None = Field(default=None, foreign_key="rollout.id")
    figures: dict[str, float | None] = json_dict()
    facts: dict[str, str] = json_dict()
    gates: list[dict[str, Any]] = json_list()
    reason: str = ""
    attested_by: list[str] = json_list()
    report: bytes = b""
    report_key: bytes = b""
    created_at: float
    created_by: str
    started_at: float | None = None
    finished_at: float | None = None
