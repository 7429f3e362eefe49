"""What workers ask and say: papers, units of work, model folders, results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cloud.api import bodies
from cloud.api.access import Cloud, Operator, Viewer, Worker
from cloud.api.answers import answer
from cloud.auth.pki import Pki
from cloud.broker import work_names
from cloud.errors import InputError
from cloud.services import figures, incoming, units, views, workers
from cloud.services.workers import Introduction
from cloud.work.messages import Attempt, Handed, Who
from fleet.registry.repositories import Models, Work

MAX_REPORT_BYTES = 16 << 20
_NAME = r"^[A-Za-z0-9_-]{1,64}$"

router = APIRouter(tags=["workers"])


class NewWorker(BaseModel):
    """Who registers, and the certificate request for its connection to the broker."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=_NAME)
    session: str = ""
    toolchains: list[str] = Field(max_length=64)
    host: dict[str, str | int | float] = Field(default_factory=dict)
    version: str = Field(default="", max_length=64)
    csr: str = Field(max_length=8192)


class Speaker(BaseModel):
    """Which worker speaks."""

    model_config = ConfigDict(extra="forbid")
    worker: str = Field(pattern=_NAME)
    session: str

    def who(self) -> Who:
        """For the services."""
        return Who(name=self.worker, session=self.session)


class OfAttempt(Speaker):
    """Which attempt it speaks of."""

    attempt: int = Field(ge=1)

    def at(self, unit: str) -> Attempt:
        """For the services."""
        return Attempt(unit=unit, number=self.attempt, who=self.who())


class Progress(OfAttempt):
    """How far an attempt is."""

    progress: float = Field(ge=0, le=1)
    message: str = Field(max_length=4000)
    said: str = Field(default="", max_length=200_000)


class Failure(OfAttempt):
    """Why an attempt could not be done."""

    message: str = Field(max_length=20_000)
    retryable: bool = False
    said: str = Field(default="", max_length=200_000)


class Results(OfAttempt):
    """What an attempt made: the report, and the digests of the artifacts that were sent before."""

    report: dict[str, Any]
    artifacts: list[str] = Field(default_factory=list, max_length=256)


@router.get("/workers")
def list_workers(cloud: Cloud, _by: Viewer) -> Response:
    """Workers with their toolchains, hosts and what they do now."""
    with cloud.read() as session:
        return answer(views.workers(session))


@router.post("/workers", status_code=201)
def register(body: NewWorker, cloud: Cloud, by: Worker) -> Response:
    """Register a worker or renew its papers: a session, and a short-lived certificate for the broker."""
    pki = Pki(cloud.settings.path("ca"))
    given = Introduction(
        name=body.name,
        session=body.session,
        toolchains=body.toolchains,
        host=dict(body.host),
        version=body.version,
    )
    if body.name == workers.OWN_NAME:
        raise InputError(f"name: {body.name!r} is the cloud's own worker; choose another --name")
    made = workers.register(
        cloud, pki.load_authority(), given, csr_pem=body.csr.encode(), token=by.token, by=by.name
    )
    settings = cloud.settings
    return answer(
        {
            "session": made.session,
            "certificate": made.certificate_pem,
            "lifetime_s": made.expires_at - cloud.clock(),
            "ca": pki.authorities().decode(),
            "broker": {"host": settings.reachable_host, "port": settings.broker_client_port},
            "inbox": work_names.inbox(made.name),
            "redeliver_s": settings.redeliver_s,
        },
        201,
    )


@router.delete("/workers/{name}")
def forget(name: str, cloud: Cloud, by: Operator) -> Response:
    """Forget a worker: its session ends, and nobody waits for it any more."""
    workers.forget(cloud, name, by=by.name)
    return answer({})


@router.post("/units/{unit}/begin")
def begin(unit: str, body: Speaker, cloud: Cloud, _by: Worker) -> Response:
    """Begin a unit that the queue handed out; the answer says whether to."""
    return answer(units.begin(cloud, unit, body.who()))


@router.post("/units/{unit}/progress")
def progress(unit: str, body: Progress, cloud: Cloud, _by: Worker) -> Response:
    """Say how far an attempt is; the answer says whether to go on."""
    go_on = units.advance(
        cloud, body.at(unit), progress=body.progress, message=body.message, said=body.said
    )
    return answer({"go_on": go_on})


@router.get("/units/{unit}/folder")
def folder(unit: str, cloud: Cloud, _by: Worker) -> Response:
    """The model folder that a unit compiles, as the ZIP archive that was pushed."""
    with cloud.read() as session:
        job = Models(session).job(Work(session).unit(unit).job)
        version = Models(session).version(job.model, job.version)
    return FileResponse(cloud.blobs.path(version.archive_sha256), media_type="application/zip")


@router.get("/units/{unit}/figures")
def measured(unit: str, cloud: Cloud, _by: Worker) -> Response:
    """What devices measured of the model that a unit compiles, as ``--figures`` takes it."""
    with cloud.read() as session:
        job = Models(session).job(Work(session).unit(unit).job)
        return answer(figures.document(session, job.model))


@router.post("/units/{unit}/artifacts", status_code=201)
async def send(
    unit: str,
    request: Request,
    cloud: Cloud,
    _by: Worker,
    worker: Annotated[str, Query(pattern=_NAME)],
    session: str,
    attempt: Annotated[int, Query(ge=1)],
) -> Response:
    """Send an artifact, in the body, before it is handed in; the answer says its digest."""
    at = Attempt(unit=unit, number=attempt, who=Who(name=worker, session=session))
    await run_in_threadpool(units.check_sender, cloud, at)
    with incoming.place(cloud, unit) as file:
        await bodies.receive(
            request, file, limit_bytes=incoming.MAX_ARTIFACT_BYTES, what="an artifact"
        )
        digest = await run_in_threadpool(incoming.keep, cloud, at, file)
    return answer({"sha256": digest}, 201)


@router.post("/units/{unit}/results")
async def hand_in(unit: str, request: Request, cloud: Cloud, _by: Worker) -> Response:
    """Hand in a report with the artifacts that it names; entered once, whoever asks again."""
    with incoming.place(cloud, unit) as file:
        await bodies.receive(request, file, limit_bytes=MAX_REPORT_BYTES, what="a report")
        body = _results(file)
    return await run_in_threadpool(_hand_in, cloud, unit, body)


@router.post("/units/{unit}/failure")
def fail(unit: str, body: Failure, cloud: Cloud, _by: Worker) -> Response:
    """Say why an attempt could not be done."""
    state = units.fail(
        cloud, body.at(unit), message=body.message, retryable=body.retryable, said=body.said
    )
    return answer({"state": state.value})


@router.post("/units/{unit}/return")
def hand_back(unit: str, body: OfAttempt, cloud: Cloud, _by: Worker) -> Response:
    """Give a unit back undone."""
    units.hand_back(cloud, body.at(unit))
    return answer({})


def _hand_in(cloud: Cloud, unit: str, body: Results) -> Response:
    at = body.at(unit)
    files = incoming.files(cloud, at, body.artifacts)
    state = units.hand_in(cloud, at, Handed(report=body.report, files=files))
    incoming.remove(cloud, unit)
    return answer({"state": state.value})


def _results(file: Path) -> Results:
    try:
        return Results.model_validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise InputError(f"{place}: {first['msg']}; hand in a report and its artifacts") from None
