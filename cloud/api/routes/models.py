"""Models, their compilation, artifacts and releases."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.api import bodies
from cloud.api.access import Cloud, Engineer, Viewer
from cloud.api.answers import answer
from cloud.services import folders, jobs, models, releases, views
from fleet.artifact.package import SUFFIX
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Models

router = APIRouter(tags=["models"])


class Compile(BaseModel):
    """What to compile for."""

    model_config = ConfigDict(extra="forbid")
    targets: list[str] = Field(min_length=1, max_length=64)


class NewRelease(BaseModel):
    """What to release."""

    model_config = ConfigDict(extra="forbid")
    model: str
    version: str
    security_floor: str = ""
    rebuild: bool = False


@router.post("/models", status_code=201)
async def push(request: Request, cloud: Cloud, by: Engineer) -> Response:
    """Push a model folder, as a ZIP archive in the body; the same content is the same version."""
    with tempfile.TemporaryDirectory(prefix="outrider-upload-") as folder:
        archive = Path(folder) / "archive.zip"
        await bodies.receive(
            request, archive, limit_bytes=folders.MAX_ARCHIVE_BYTES, what="an archive"
        )
        pushed = await run_in_threadpool(models.push, cloud, archive, by=by.name)
    return answer(
        {"name": pushed.model, "version": pushed.version, "sha256": pushed.folder_sha256}, 201
    )


@router.get("/models")
def list_models(cloud: Cloud, _by: Viewer) -> Response:
    """All models."""
    with cloud.read() as session:
        return answer(views.models(session))


@router.get("/models/{name}")
def show_model(name: str, cloud: Cloud, _by: Viewer) -> Response:
    """One model with its versions, artifacts, releases and jobs."""
    with cloud.read() as session:
        return answer(views.model(session, name))


@router.get("/models/{name}/{version}")
def show_version(name: str, version: str, cloud: Cloud, _by: Viewer) -> Response:
    """One version of a model."""
    with cloud.read() as session:
        return answer(views.version(session, name, version))


@router.post("/models/{name}/{version}/compile", status_code=202)
def compile_version(name: str, version: str, body: Compile, cloud: Cloud, by: Engineer) -> Response:
    """Queue a compile job."""
    job = jobs.submit(cloud, model=name, version=version, targets=body.targets, by=by.name)
    return answer({"job": job.id}, 202)


@router.get("/artifacts")
def list_artifacts(
    cloud: Cloud, _by: Viewer, model: str | None = None, version: str | None = None
) -> Response:
    """Artifacts, newest first."""
    with cloud.read() as session:
        return answer(views.artifacts(session, model, version))


@router.get("/artifacts/{sha256}/file")
def fetch_artifact(sha256: str, cloud: Cloud, _by: Viewer) -> Response:
    """An artifact's file."""
    with cloud.read() as session:
        row = Models(session).find_artifact(sha256)
    if row is None:
        raise NotFoundError(
            f"expected the digest of an artifact, found {sha256!r}; list the artifacts"
        )
    name = f"{row.model}-{row.version}-{row.target}{SUFFIX}"
    return FileResponse(
        cloud.blobs.path(sha256), media_type="application/octet-stream", filename=name
    )


@router.post("/releases", status_code=201)
def create_release(body: NewRelease, cloud: Cloud, by: Engineer) -> Response:
    """Sign a release of a compiled version."""
    created = releases.create(
        cloud,
        model=body.model,
        version=body.version,
        security_floor=body.security_floor,
        rebuild=body.rebuild,
        by=by.name,
    )
    with cloud.read() as session:
        release = views.release(session, created.release.id)
    return answer({"release": release, "left_out": created.left_out}, 201)


@router.get("/releases")
def list_releases(cloud: Cloud, _by: Viewer, model: str | None = None) -> Response:
    """Releases, newest first."""
    with cloud.read() as session:
        return answer(views.releases(session, model))


@router.get("/releases/{release}")
def show_release(release: str, cloud: Cloud, _by: Viewer) -> Response:
    """One release."""
    with cloud.read() as session:
        return answer(views.release(session, release))


@router.get("/releases/{release}/traffic")
def release_traffic(
    release: str,
    cloud: Cloud,
    _by: Viewer,
    period_s: Annotated[float, Query(gt=0)] = views.PERIOD_S,
) -> Response:
    """What a release has done on all devices together, per variant: merged windows of the last `period_s`."""
    with cloud.read() as session:
        return answer(views.traffic(session, release, now=cloud.clock(), period_s=period_s))
