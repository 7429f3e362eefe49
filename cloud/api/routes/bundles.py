"""What passes between the cloud and devices on a medium."""

from __future__ import annotations

import base64
import binascii

from fastapi import APIRouter
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict

from cloud.api.access import Cloud, Operator
from cloud.api.answers import answer
from cloud.audit import log
from cloud.errors import InputError
from cloud.gateway import couriers
from fleet.registry.errors import NotFoundError

router = APIRouter(tags=["bundles"])


class Carried(BaseModel):
    """A message that a device wrote to a medium, in base64."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    data: str


@router.post("/devices/{device}/bundle")
def load(device: str, cloud: Cloud, by: Operator) -> Response:
    """Sign what a medium carries to a device: its desired state, and the digests of the blobs that belong to it."""
    found = couriers.load(cloud, device)
    with cloud.unit() as unit:
        log.record(unit, actor=by.name, action="bundle.export", subject=device)
    return answer(
        {
            "device": device,
            "desired": base64.b64encode(found.desired).decode(),
            "blobs": [{"sha256": sha256, "size_bytes": n} for sha256, n in found.blobs.items()],
        }
    )


@router.get("/devices/{device}/bundle/blobs/{sha256}")
def blob(device: str, sha256: str, cloud: Cloud, _by: Operator) -> Response:
    """One of those blobs."""
    if sha256 not in couriers.blobs(cloud, device):
        raise NotFoundError(
            f"expected a blob of the assignment of {device!r}, found {sha256[:80]!r}"
        )
    return FileResponse(cloud.blobs.path(sha256), media_type="application/octet-stream")


@router.post("/devices/{device}/bundle/messages")
def take(device: str, body: Carried, cloud: Cloud, _by: Operator) -> Response:
    """Take a message that a device wrote to a medium; the signed acknowledgements are to be carried back."""
    try:
        data = base64.b64decode(body.data, validate=True)
    except binascii.Error as error:
        raise InputError(f"data: expected base64, found {error}") from None
    acks = couriers.take(cloud, device, body.kind, data)
    return answer({"acks": [base64.b64encode(ack).decode() for ack in acks]})
