"""Compile jobs: rows, cut into units of work that workers take; the rows are the truth, no process is.

Rules:
- A unit is the part of a job whose targets are led by the same toolchain; where the job stands follows from
  where its units stand (`cloud.work.states`), in the transaction that moves one of them.
- What a unit found is entered in the transaction that ends it; the job's report is its units' merged.
- Orders of people (cancel, retry) move units; workers hear of it when they next speak of theirs, or sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.errors import InputError
from cloud.work import routing
from cloud.work.messages import made_by
from cloud.work.states import (
    JOB,
    OPEN,
    UNIT,
    JobEvent,
    JobState,
    UnitEvent,
    UnitState,
    event_towards,
    state_of_job,
)
from fleet.registry.repositories import Models, Work
from fleet.registry.tables import Job, WorkUnit

MESSAGE_LENGTH = 2000


def submit(context: Context, *, model: str, version: str, targets: Sequence[str], by: str) -> Job:
    """Queue a compile job.

    Raises:
        NotFoundError: no such model version.
        InputError: no target, one twice, or one that does not exist.
    """
    if not targets or len(set(targets)) != len(targets):
        raise InputError(
            f"targets: expected one or more different targets, found {list(targets)}; see `outrider compile --help`"
        )
    with context.read() as session:
        Models(session).version(model, version)
    groups = routing.cut(targets)
    with context.unit() as unit:
        models = Models(unit.session)
        job = Job(
            id=context.ids(),
            model=model,
            version=version,
            targets=list(targets),
            message="waiting",
            created_at=unit.now,
            created_by=by,
        )
        models.add(job)
        _cut(unit, job, groups)
        subject = f"{model}@{version}"
        log.record(
            unit,
            actor=by,
            action="compile.submit",
            subject=subject,
            job=job.id,
            targets=job.targets,
        )
        unit.publish("job", job=job.id)
    return job


def adopt(context: Context) -> int:
    """Cut open jobs into units that a version before units left behind; returns how many there were."""
    with context.unit() as unit:
        models, work = Models(unit.session), Work(unit.session)
        found = [*models.jobs(state="running"), *models.jobs(state="queued")]
        bare = [job for job in found if not work.units(job.id)]
        for job in bare:
            try:
                groups = routing.cut(job.targets)
            except InputError as error:
                _move(job, JobEvent.FAIL, unit.now, str(error))
                continue
            _cut(unit, job, groups)
            settle(unit, job.id)
    return len(bare)


def cancel(context: Context, job_id: str, *, by: str) -> Job:
    """End what is left of a job; a job that has ended stays as it is.

    Raises:
        NotFoundError: no such job.
    """
    with context.unit() as unit:
        work = Work(unit.session)
        job = Models(unit.session).job(job_id, for_update=True)
        open_units = [it for it in work.units(job.id) if UnitState(it.state) in OPEN]
        for it in open_units:
            move(it, UnitEvent.CANCEL, unit.now, f"cancelled by {by}")
            attempt = work.newest_attempt(it.id)
            if attempt is not None and attempt.state == "running":
                attempt.state, attempt.ended_at = "cancelled", unit.now
                attempt.message = f"cancelled by {by}"
        if open_units:
            log.record(unit, actor=by, action="compile.cancel", subject=_subject(job), job=job.id)
            settle(unit, job.id)
    return job


def retry(context: Context, job_id: str, *, by: str) -> Job:
    """Queue anew what failed, was set aside, cancelled or rejected.

    Raises:
        NotFoundError: no such job.
        InputError: it has not ended, or every target has its artifact.
    """
    with context.unit() as unit:
        work = Work(unit.session)
        job = Models(unit.session).job(job_id, for_update=True)
        units = work.units(job.id)
        if any(UnitState(it.state) in OPEN for it in units):
            raise InputError(f"job {job_id}: expected one that has ended, found it {job.state}")
        again = [it for it in units if UnitState(it.state) is not UnitState.DONE or _rejected(it)]
        if not again:
            raise InputError(f"job {job_id}: every target has its artifact; submit a new job")
        for it in again:
            move(it, UnitEvent.RETRY, unit.now, "waiting")
            it.tries, it.progress, it.report = 0, 0.0, {}
        log.record(unit, actor=by, action="compile.retry", subject=_subject(job), job=job.id)
        _move(job, JobEvent.RETRY, unit.now, "waiting")
        settle(unit, job.id)
    return job


def move(row: WorkUnit, event: UnitEvent, now: float, message: str) -> None:
    """Move a unit by its table. Raises UnlistedTransitionError."""
    state = UNIT.next(UnitState(row.state), event)
    row.state, row.message = state.value, message[:MESSAGE_LENGTH]
    row.finished_at = None if state in OPEN else now


def settle(unit: Unit, job_id: str) -> None:
    """Bring a job to where its units stand, merge what they found, and tell."""
    unit.session.flush()
    job = Models(unit.session).job(job_id, for_update=True)
    units = Work(unit.session).units(job_id)
    job.report = _merged(job, units)
    job.progress = sum(it.progress * len(it.targets) for it in units) / max(1, len(job.targets))
    state = state_of_job([UnitState(it.state) for it in units])
    rejected = [t for it in units for t in _rejected(it)]
    if state is JobState.DONE and not any(made_by(it.report) for it in units):
        state = JobState.FAILED
    message = _message(state, units, rejected)
    if JobState(job.state) is not state:
        _move(job, event_towards(state), unit.now, message)
    job.message = message
    if state is JobState.RUNNING and job.started_at is None:
        job.started_at = unit.now
    unit.publish("job", job=job.id)


def _cut(unit: Unit, job: Job, groups: dict[str, list[str]]) -> None:
    for position, (toolchain, targets) in enumerate(groups.items()):
        row = WorkUnit(
            id=f"{job.id}-{position}",
            job=job.id,
            position=position,
            toolchain=toolchain,
            targets=targets,
            message="waiting",
            created_at=unit.now,
        )
        Work(unit.session).add(row)


def _move(job: Job, event: JobEvent, now: float, message: str) -> None:
    state = JOB.next(JobState(job.state), event)
    job.state, job.message = state.value, message[:MESSAGE_LENGTH]
    job.finished_at = None if state in {JobState.QUEUED, JobState.RUNNING} else now


def _message(state: JobState, units: Sequence[WorkUnit], rejected: Sequence[str]) -> str:
    if state is JobState.DONE or (state is JobState.FAILED and not _troubled(units)):
        return f"rejected: {', '.join(rejected)}" if rejected else "done"
    shown = _troubled(units) or [it for it in units if UnitState(it.state) in OPEN] or units
    if len(units) == 1:
        return shown[0].message
    texts = [f"{', '.join(it.targets)}: {it.message}" for it in shown if it.message]
    return "; ".join(texts)[:MESSAGE_LENGTH]


def _troubled(units: Sequence[WorkUnit]) -> list[WorkUnit]:
    troubles = {UnitState.FAILED, UnitState.SET_ASIDE}
    return [it for it in units if UnitState(it.state) in troubles]


def _rejected(row: WorkUnit) -> list[str]:
    found = row.report.get("targets", [])
    return [str(it.get("target")) for it in found if it.get("status") == "rejected"]


def _merged(job: Job, units: Sequence[WorkUnit]) -> dict[str, Any]:
    """One report out of the units': targets in the job's order, everything else from the first one.

    Figures of different hosts do not compare, so each target says where it was compiled.
    """
    reports = [it.report for it in units if it.report]
    if not reports:
        return {}
    results = {str(r.get("target")): r for report in reports for r in report.get("targets", [])}
    merged = {**reports[0], "targets": [results[t] for t in job.targets if t in results]}
    if len(reports) > 1:
        merged["host"] = {}
    return merged


def _subject(job: Job) -> str:
    return f"{job.model}@{job.version}"
