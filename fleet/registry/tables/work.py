"""Compile work: units, the attempts at them, and the workers that make them."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlalchemy import CheckConstraint
from sqlmodel import Field

from fleet.registry.tables.base import Row, json_dict, json_list, one_of

UNIT_STATES = ("queued", "running", "done", "failed", "set_aside", "cancelled")
ATTEMPT_STATES = ("running", "done", "failed", "died", "handed_back", "cancelled")


class WorkUnit(Row, table=True):
    """A part of a compile job that one worker does: the targets that need the same toolchain.

    Attributes:
        position: within its job.
        toolchain: what a worker must have to take it.
        tries: attempts that died or broke since it was queued by a person.
        report: the compile report of its targets.
    """

    __tablename__: ClassVar[str] = "work_unit"
    __table_args__ = (
        one_of("state", UNIT_STATES, name="state"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress_share"),
        CheckConstraint(
            "(state IN ('queued', 'running')) = (finished_at IS NULL)", name="finished"
        ),
    )

    id: str = Field(primary_key=True)
    job: str = Field(foreign_key="job.id", index=True)
    position: int
    toolchain: str
    targets: list[str] = json_list()
    state: str = Field(default="queued", index=True)
    progress: float = 0.0
    message: str = ""
    tries: int = 0
    report: dict[str, Any] = json_dict()
    created_at: float
    finished_at: float | None = None


class WorkAttempt(Row, table=True):
    """One worker's attempt at a unit.

    Attributes:
        session: of the worker's process; another session is another process.
        host: what the worker said of its host.
        log: the newest lines that the compiler printed.
        heard_at: when the worker last spoke of it.
    """

    __tablename__: ClassVar[str] = "work_attempt"
    __table_args__ = (
        one_of("state", ATTEMPT_STATES, name="state"),
        CheckConstraint("number > 0", name="number_positive"),
        CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),
    )

    unit: str = Field(foreign_key="work_unit.id", primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    worker: str
    session: str
    host: dict[str, Any] = json_dict()
    state: str = "running"
    message: str = ""
    log: str = ""
    started_at: float
    heard_at: float
    ended_at: float | None = None


class Worker(Row, table=True):
    """A process that takes units of work.

    Attributes:
        session: of the process that goes by the name now.
        token: id of the API token that it registered with; empty for the cloud's own worker.
        serial: of its current certificate for the broker.
    """

    __tablename__: ClassVar[str] = "worker"

    name: str = Field(primary_key=True)
    session: str
    token: str
    toolchains: list[str] = json_list()
    host: dict[str, Any] = json_dict()
    version: str = ""
    serial: str = ""
    registered_at: float
    heard_at: float
