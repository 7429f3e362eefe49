"""Compile jobs: what became of them, their logs, and orders to them."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from cloud.api.access import Cloud, Engineer, Viewer
from cloud.api.answers import answer
from cloud.services import jobs, views

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("")
def list_jobs(cloud: Cloud, _by: Viewer, state: str | None = None) -> Response:
    """Jobs, newest first; those in one state when given."""
    with cloud.read() as session:
        return answer(views.jobs(session, state))


@router.get("/{job}")
def show_job(job: str, cloud: Cloud, _by: Viewer) -> Response:
    """One job with its units of work."""
    with cloud.read() as session:
        return answer(views.job(session, job))


@router.get("/{job}/log")
def job_log(job: str, cloud: Cloud, _by: Viewer) -> Response:
    """Every attempt at a job: which worker, on what host, how it ended, and its last lines."""
    with cloud.read() as session:
        return answer(views.job_log(session, job))


@router.post("/{job}/cancel")
def cancel(job: str, cloud: Cloud, by: Engineer) -> Response:
    """End what is left of a job; its workers are told."""
    jobs.cancel(cloud, job, by=by.name)
    return show_job(job, cloud, by)


@router.post("/{job}/retry")
def retry(job: str, cloud: Cloud, by: Engineer) -> Response:
    """Queue anew what failed, was set aside, cancelled or rejected."""
    jobs.retry(cloud, job, by=by.name)
    return show_job(job, cloud, by)
