"""Who may connect to the broker, and what it may say and hear there.

Rules:
- A connection is MQTT (devices, the gateway) or NATS (the work queue) over mTLS; its certificate, verified
  by the broker, says who it is.
- A device's client id is its certificate's CN; the cloud's own client ids start with ``cloud:``, which no
  device id can, so that no device can push the cloud off its session.
- A device publishes below its own ``up`` and hears its own ``down`` and its tenant's ``blob``; the cloud
  hears every ``up`` and publishes to every ``down`` and ``blob``. Nothing else is granted.
- A worker takes messages of the work queue, says what became of them, and hears the hints; the cloud also
  fills the queue. Neither is granted anything of the devices' over that connection.
- A device's permissions end after `SESSION_S`, or with its certificate: the broker cuts the connection, the device
  comes back, and is judged again.
- NATS writes ``/`` as ``.`` and ``+`` as ``*``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloud.auth import ca
from cloud.auth.ca import Subject
from cloud.broker import work_names
from cloud.errors import AdmissionError
from fleet.errors import WireError
from fleet.wire import topics

CLOUD_PREFIX = "cloud:"
DEVICE_UNIT = "device"
CLOUD_UNIT = "cloud"
WORKER_UNIT = "worker"
SESSION_S = 12 * 3600.0
MQTT, NATS = "mqtt", "nats"
_ROOT = topics.ROOT.replace("/", ".")


@dataclass(frozen=True)
class Peer:
    """What the broker tells about a connection.

    Attributes:
        kind: the protocol that it speaks, ``mqtt`` or ``nats``.
        subject: of the leaf certificate.
        serial: the leaf's serial number, lower-case hex.
        not_after: when the leaf expires, seconds since the epoch.
    """

    kind: str
    client_id: str
    subject: Subject
    serial: str
    not_after: float


@dataclass(frozen=True)
class Permissions:
    """What a connection may do: NATS subjects, and when it ends by itself."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    expires: float
    kind: str = MQTT


def permissions(peer: Peer, *, now: float) -> Permissions:
    """What `peer` may do, by its certificate alone; the registry is asked by the caller.

    Raises:
        AdmissionError: it may not connect.
    """
    if now > peer.not_after:
        raise AdmissionError(
            f"the certificate of {peer.subject.name!r} expired at {peer.not_after:.0f}; enrol again"
        )
    given = _GIVEN.get((peer.kind, peer.subject.unit))
    if given is None:
        raise AdmissionError(
            "expected a device's or the cloud's certificate on the MQTT port, or a worker's or the cloud's "
            f"on the NATS port, found unit {peer.subject.unit!r} over {peer.kind!r}"
        )
    return given(peer, now)


def _device(peer: Peer, now: float) -> Permissions:
    device, tenant = peer.subject.name, peer.subject.tenant
    try:
        topics.check_id(device, what="device")
        topics.check_id(tenant, what="tenant")
    except WireError as error:
        raise AdmissionError(str(error)) from None
    if peer.client_id != device:
        raise AdmissionError(
            f"expected the client id {device!r} that the certificate names, found {peer.client_id!r}"
        )
    root = f"{_ROOT}.{tenant}"
    return Permissions(
        name=device,
        publish=tuple(f"{root}.d.{device}.up.{kind.value}" for kind in topics.Up),
        subscribe=(f"{root}.d.{device}.down.*", f"{root}.blob.*"),
        expires=min(peer.not_after, now + SESSION_S),
    )


def _cloud(peer: Peer, _now: float) -> Permissions:
    if not peer.client_id.startswith(CLOUD_PREFIX):
        raise AdmissionError(
            f"expected a client id of the cloud ({CLOUD_PREFIX}...), found {peer.client_id!r}"
        )
    return Permissions(
        name=peer.client_id,
        publish=(f"{_ROOT}.*.d.*.down.*", f"{_ROOT}.*.blob.*"),
        subscribe=(f"{_ROOT}.*.d.*.up.*",),
        expires=peer.not_after,
    )


def _worker(peer: Peer, _now: float) -> Permissions:
    name = work_names.check(ca.worker_of(peer.subject))
    return Permissions(
        name=f"worker:{name}",
        publish=(
            f"$JS.API.CONSUMER.MSG.NEXT.{work_names.STREAM}.*",
            f"$JS.ACK.{work_names.STREAM}.>",
        ),
        subscribe=(f"{work_names.inbox(name)}.>", work_names.HINTS),
        expires=peer.not_after,
        kind=NATS,
    )


def _queue(peer: Peer, _now: float) -> Permissions:
    return Permissions(
        name=CLOUD_PREFIX + "queue",
        publish=(f"{work_names.ROOT}.>", work_names.HINTS, "$JS.API.>", "$JS.ACK.>"),
        subscribe=("_INBOX.>", work_names.HINTS),
        expires=peer.not_after,
        kind=NATS,
    )


_GIVEN: dict[tuple[str, str], Callable[[Peer, float], Permissions]] = {
    (MQTT, DEVICE_UNIT): _device,
    (MQTT, CLOUD_UNIT): _cloud,
    (NATS, WORKER_UNIT): _worker,
    (NATS, CLOUD_UNIT): _queue,
}
