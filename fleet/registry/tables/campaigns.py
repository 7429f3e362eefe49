"""Rebuild campaigns."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint, UniqueConstraint
from sqlmodel import Field

from fleet.registry.tables.base import Row, json_dict, json_list, one_of

CAMPAIGN_STATES = ("noticed", "open", "started", "dismissed", "gone")


class Campaign(Row, table=True):
    """Devices of a class report a version of a runtime that artifacts in use were not built or proven for.

    Attributes:
        version: what the devices report.
        artifacts: what is concerned: digest, model, version, target, and what it was built for.
        devices: how many report it.
        jobs: the compile jobs that were queued, by ``model@version``.
        noticed_at: when it was first reported; what is raised has stayed for a while.
    """

    __tablename__: ClassVar[str] = "campaign"
    __table_args__ = (
        one_of("state", CAMPAIGN_STATES, name="state"),
        UniqueConstraint("hardware_class", "runtime", "version"),
        CheckConstraint(
            "(state IN ('started', 'dismissed')) = (decided_at IS NOT NULL)", name="decided"
        ),
    )

    id: str = Field(primary_key=True)
    hardware_class: str
    runtime: str
    version: str
    state: str = Field(default="noticed", index=True)
    artifacts: list[dict[str, Any]] = json_list()
    devices: int = 0
    jobs: dict[str, str] = json_dict()
    noticed_at: float
    raised_at: float | None = None
    decided_at: float | None = None
    decided_by: str = ""
