"""Compile jobs: rows that a runner works off; the row is the truth, the process is not.

Rules:
- ``queued → running → done | failed``; a job that was running when the cloud died is queued again, and
  fails when that has happened `MAX_ATTEMPTS` times.
- The results of a job are entered in the transaction that ends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloud.audit import log
from cloud.context import Context
from cloud.errors import InputError
from cloud.services import artifacts
from cloud.services.artifacts import Prepared
from fleet.registry.repositories import Models
from fleet.registry.tables import Job

MAX_ATTEMPTS = 3


def submit(context: Context, *, model: str, version: str, targets: Sequence[str], by: str) -> Job:
    """Queue a compile job.

    Raises:
        NotFoundError: no such model version.
        InputError: no target, or one twice.
    """
    if not targets or len(set(targets)) != len(targets):
        raise InputError(
            f"targets: expected one or more different targets, found {list(targets)}; see `outrider compile --help`"
        )
    with context.unit() as unit:
        models = Models(unit.session)
        models.version(model, version)
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


def requeue(context: Context) -> int:
    """At start: queue what was running when the cloud died; returns how many jobs were."""
    with context.unit() as unit:
        count = 0
        for job in Models(unit.session).jobs(state="running"):
            count += 1
            if job.attempts >= MAX_ATTEMPTS:
                _end(job, "failed", f"the cloud died {job.attempts} times while this ran", unit.now)
            else:
                job.state, job.progress, job.message = "queued", 0.0, "waiting (after a restart)"
            unit.publish("job", job=job.id)
    return count


def take(context: Context) -> Job | None:
    """Begin the oldest queued job."""
    with context.unit() as unit:
        job = Models(unit.session).next_job()
        if job is not None:
            job.state, job.started_at, job.message = "running", unit.now, "starting"
            job.attempts += 1
            unit.publish("job", job=job.id)
    return job


def advance(context: Context, job_id: str, *, progress: float, message: str) -> None:
    """Note how far a running job is."""
    with context.unit() as unit:
        job = Models(unit.session).job(job_id)
        if job.state == "running":
            job.progress = min(1.0, max(job.progress, progress))
            job.message = message[:500]
            unit.publish("job", job=job.id)


def finish(
    context: Context, job_id: str, *, report: dict[str, Any], built: Sequence[Prepared]
) -> None:
    """End a job with its report, and enter what it built.

    Raises:
        InputError: an artifact of another model or version.
    """
    with context.unit() as unit:
        job = Models(unit.session).job(job_id)
        if job.state != "running":
            return
        results = {str(r.get("target")): r for r in report.get("targets", [])}
        for prepared in built:
            result = results.get(prepared.manifest.target, {})
            artifacts.enter(unit, prepared, model=job.model, version=job.version, result=result)
        rejected = [t for t, r in results.items() if r.get("status") == "rejected"]
        job.report, job.progress = report, 1.0
        all_rejected = bool(results) and len(rejected) == len(results)
        text = f"rejected: {', '.join(rejected)}" if rejected else "done"
        _end(job, "failed" if all_rejected else "done", text, unit.now)
        digests = {
            p.manifest.target + (" (fallback)" if p.fallback else ""): p.sha256 for p in built
        }
        log.record(
            unit,
            actor="cloud",
            action="compile.finish",
            subject=f"{job.model}@{job.version}",
            job=job.id,
            artifacts=digests,
        )
        unit.publish("job", job=job.id)
        unit.publish("model", model=job.model, version=job.version)


def fail(context: Context, job_id: str, reason: str) -> None:
    """End a job that could not be done."""
    with context.unit() as unit:
        job = Models(unit.session).job(job_id)
        if job.state == "running":
            _end(job, "failed", reason, unit.now)
            unit.publish("job", job=job.id)


def _end(job: Job, state: str, message: str, now: float) -> None:
    job.state, job.message, job.finished_at = state, message[:2000], now
