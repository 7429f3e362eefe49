"""What passes between the cloud and a device on a medium that a person carries.

Rules:
- The same as over the broker: the same messages, signed for the same device, taken by the same handler; the medium
  and its carrier are believed in nothing.
- What is signed for a medium holds as long as the assignment's own metadata.
- A message that was carried is no sign of presence.
"""

from __future__ import annotations

from typing import NamedTuple, NoReturn

from cloud.context import Context
from cloud.errors import DeniedError, InputError
from cloud.gateway.blocks import BlockServer, Outlets
from cloud.gateway.handler import Handler
from cloud.gateway.inbox import Incoming
from cloud.services import ingest, trust
from fleet.registry.repositories import Devices, Models, Trust, Ways
from fleet.wire.messages import Status
from fleet.wire.topics import Down, Up, UpTopic
from ota.metadata.director import ASSIGNMENT_DAYS

LIFETIME_S = ASSIGNMENT_DAYS * 86_400.0
CARRIED = frozenset({Up.BIRTH, Up.REPORTED, Up.EVENT, Up.TELEMETRY})


class Load(NamedTuple):
    """What a medium carries to a device: its desired state as a signed message, and blobs with their sizes."""

    desired: bytes
    blobs: dict[str, int]


def load(context: Context, device: str) -> Load:
    """What to carry to a device.

    Raises:
        NotFoundError: no such device.
        DeniedError: it was revoked.
    """
    with context.read() as session:
        if Devices(session).get(device).revoked_at is not None:
            raise DeniedError(f"device {device!r} was revoked; it must be enrolled anew")
    desired = trust.sealed_desired(context, device, lifetime_s=LIFETIME_S)
    digests = blobs(context, device)
    return Load(desired, {sha256: context.blobs.size(sha256) for sha256 in sorted(digests)})


def blobs(context: Context, device: str) -> set[str]:
    """Digests of the blobs of a device's assignment: artifacts, what leads to them with less to send, block lists."""
    found: set[str] = set()
    with context.read() as session:
        for sha256 in Trust(session).assigned_digests(device):
            artifact = Models(session).find_artifact(sha256)
            if artifact is not None:
                found |= {artifact.sha256, artifact.blocks_sha256}
            for way in Ways(session).to(sha256):
                found |= {way.sha256, way.blocks_sha256}
    return found


def take(context: Context, device: str, kind: str, payload: bytes) -> list[bytes]:
    """Take a message that was carried; the signed acknowledgements, to be carried back.

    Raises:
        InputError: a kind that is not carried.
        NotFoundError: no such device.
        OutriderError: the message does not hold; see `Handler.take`.
    """
    if kind not in {each.value for each in CARRIED}:
        raise InputError(
            f"expected a message of kind {', '.join(sorted(CARRIED))}, found {kind[:40]!r}"
        )
    with context.read() as session:
        row = Devices(session).get(device)
        tenant, online = row.tenant, row.online
    answers: list[bytes] = []

    def send(_to: UpTopic, down: Down, data: bytes) -> None:
        if down is Down.ACK:
            answers.append(data)

    nowhere = Outlets(block=_no_block, to_all=_no_block, refuse=_no_block)
    handler = Handler(context, send, BlockServer(context, nowhere))
    handler.take(Incoming(UpTopic(tenant=tenant, device=device, kind=Up(kind)), payload))
    handler.flush()
    if kind == Up.BIRTH.value and not online:
        ingest.status(context, Status(device=device, online=False))
    return answers


def _no_block(*_: object) -> NoReturn:
    raise AssertionError("blocks are not asked for by what is carried")
