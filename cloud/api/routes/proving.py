"""Proving devices, trials, and what devices measured."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives import serialization
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict

from cloud.api.access import Cloud, Operator, Viewer
from cloud.api.answers import answer
from cloud.errors import InputError
from cloud.services import figures, proving, views
from fleet.registry.repositories import Models, Proving

router = APIRouter(tags=["proving"])


class Naming(BaseModel):
    """Whether a device has the part."""

    model_config = ConfigDict(extra="forbid")
    on: bool = True


class Prove(BaseModel):
    """Where to try an artifact."""

    model_config = ConfigDict(extra="forbid")
    device: str = ""


@router.post("/devices/{device}/proving")
def name_prover(device: str, body: Naming, cloud: Cloud, by: Operator) -> Response:
    """Name a device a proving device of its hardware class, or take that back."""
    with cloud.unit() as unit:
        proving.name(unit, device, on=body.on, by=by.name)
    with cloud.read() as session:
        return answer(views.device_line(session, device))


@router.post("/artifacts/{sha256}/prove", status_code=202)
def prove(sha256: str, body: Prove, cloud: Cloud, by: Operator) -> Response:
    """Try an unproven artifact on a proving device; its signed figures promote it, or say why not."""
    trial = proving.prove(cloud, sha256, device=body.device, by=by.name)
    return _show(cloud, trial.id, 202)


@router.get("/trials")
def list_trials(cloud: Cloud, _by: Viewer, model: str | None = None) -> Response:
    """Trials, newest first."""
    with cloud.read() as session:
        return answer(views.trials(session, model))


@router.get("/trials/{trial}")
def show_trial(trial: str, cloud: Cloud, _by: Viewer) -> Response:
    """One trial."""
    return _show(cloud, trial)


@router.get("/trials/{trial}/report")
def trial_report(trial: str, cloud: Cloud, _by: Viewer) -> Response:
    """What ended a trial as the device signed it, with the key that it was verified by."""
    with cloud.read() as session:
        row = Proving(session).trial(trial)
    if not row.report:
        raise InputError(f"expected a trial that a device has ended, {trial} is {row.state}")
    key = serialization.load_der_public_key(row.report_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    envelope = base64.b64encode(row.report).decode()
    return answer({"device": row.device, "envelope": envelope, "public_key": key.decode()})


@router.post("/trials/{trial}/cancel")
def cancel(trial: str, cloud: Cloud, by: Operator) -> Response:
    """Call a trial off; the device goes back to what it ran."""
    proving.cancel(cloud, trial, by=by.name)
    return _show(cloud, trial)


@router.get("/figures")
def list_figures(cloud: Cloud, _by: Viewer, model: str | None = None) -> Response:
    """What devices measured, per payload and hardware class."""
    with cloud.read() as session:
        return answer(figures.of_artifacts(session, Models(session).artifacts(model)))


@router.get("/figures/{name}")
def compile_figures(name: str, cloud: Cloud, _by: Viewer) -> Response:
    """What devices' self-tests measured for a model, as ``--figures`` of a compile job takes it."""
    with cloud.read() as session:
        return answer(figures.document(session, name))


def _show(cloud: Cloud, trial: str, status: int = 200) -> Response:
    with cloud.read() as session:
        return answer(views.trial(session, trial), status)
