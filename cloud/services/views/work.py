"""Compile jobs, their units of work and attempts, and the workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlmodel import Session

from cloud.services.views.base import View
from fleet.registry.repositories import Models, Work
from fleet.registry.tables import Job, WorkAttempt, WorkUnit

LAST_WORDS_LENGTH = 2000


class UnitLine(View, frozen=True):
    """The part of a job that one worker does.

    Attributes:
        toolchain: what a worker must have to take it.
        worker: who made the newest attempt; empty before the first.
        attempts: how many there were.
        last_words: the end of the newest attempt's log, when that did not end well.
    """

    id: str
    toolchain: str
    targets: list[str]
    state: str
    progress: float
    message: str
    worker: str
    attempts: int
    last_words: str


class JobLine(View, frozen=True):
    """A compile job."""

    id: str
    model: str
    version: str
    targets: list[str]
    state: str
    progress: float
    message: str
    report: dict[str, Any]
    units: list[UnitLine]
    created_at: float
    created_by: str
    started_at: float | None
    finished_at: float | None


class AttemptLine(View, frozen=True):
    """One worker's attempt at a unit, with the newest lines that the compiler printed."""

    unit: str
    targets: list[str]
    number: int
    worker: str
    host: dict[str, Any]
    state: str
    message: str
    log: str
    started_at: float
    heard_at: float
    ended_at: float | None


class WorkerLine(View, frozen=True):
    """A worker.

    Attributes:
        units: what it works on now.
    """

    name: str
    toolchains: list[str]
    host: dict[str, Any]
    version: str
    units: list[str]
    registered_at: float
    heard_at: float


def jobs(session: Session, state: str | None = None) -> list[JobLine]:
    """Jobs, newest first; those in one state when given."""
    return _lines(session, Models(session).jobs(state=state))


def jobs_of(session: Session, model: str) -> list[JobLine]:
    """Jobs of one model, newest first."""
    return _lines(session, [row for row in Models(session).jobs() if row.model == model])


def job(session: Session, job_id: str) -> JobLine:
    """One job. Raises NotFoundError."""
    (line,) = _lines(session, [Models(session).job(job_id)])
    return line


def job_log(session: Session, job_id: str) -> list[AttemptLine]:
    """Every attempt at a job, by unit and number. Raises NotFoundError."""
    work = Work(session)
    units = {it.id: it for it in work.units(Models(session).job(job_id).id)}
    return [
        AttemptLine(
            unit=it.unit,
            targets=list(units[it.unit].targets),
            number=it.number,
            worker=it.worker,
            host=dict(it.host),
            state=it.state,
            message=it.message,
            log=it.log,
            started_at=it.started_at,
            heard_at=it.heard_at,
            ended_at=it.ended_at,
        )
        for it in work.attempts(*units)
    ]


def workers(session: Session) -> list[WorkerLine]:
    """Workers by name."""
    work = Work(session)
    busy: dict[tuple[str, str], list[str]] = {}
    for it in work.running_attempts():
        busy.setdefault((it.worker, it.session), []).append(it.unit)
    return [
        WorkerLine(
            name=it.name,
            toolchains=list(it.toolchains),
            host=dict(it.host),
            version=it.version,
            units=sorted(busy.get((it.name, it.session), [])),
            registered_at=it.registered_at,
            heard_at=it.heard_at,
        )
        for it in work.workers()
    ]


def _lines(session: Session, rows: Sequence[Job]) -> list[JobLine]:
    work = Work(session)
    units = work.units(*(row.id for row in rows))
    attempts = _by_unit(work.attempts(*(it.id for it in units)))
    return [
        JobLine(
            id=row.id,
            model=row.model,
            version=row.version,
            targets=list(row.targets),
            state=row.state,
            progress=row.progress,
            message=row.message,
            report=dict(row.report),
            units=[_unit(it, attempts.get(it.id, [])) for it in units if it.job == row.id],
            created_at=row.created_at,
            created_by=row.created_by,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        for row in rows
    ]


def _by_unit(attempts: Iterable[WorkAttempt]) -> dict[str, list[WorkAttempt]]:
    found: dict[str, list[WorkAttempt]] = {}
    for it in attempts:
        found.setdefault(it.unit, []).append(it)
    return found


def _unit(row: WorkUnit, attempts: list[WorkAttempt]) -> UnitLine:
    newest = attempts[-1] if attempts else None
    unwell = newest is not None and newest.state in {"failed", "died"}
    waiting = row.state == "queued" and row.message == "waiting"
    text = f"waiting for a worker with the toolchain {row.toolchain}"
    return UnitLine(
        id=row.id,
        toolchain=row.toolchain,
        targets=list(row.targets),
        state=row.state,
        progress=row.progress,
        message=text if waiting else row.message,
        worker=newest.worker if newest is not None else "",
        attempts=len(attempts),
        last_words=newest.log[-LAST_WORDS_LENGTH:] if newest is not None and unwell else "",
    )
