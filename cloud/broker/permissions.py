"""Who may connect to the broker, and what it may say and hear there.

Rules:
- A connection is MQTT over mTLS; its certificate, verified by the broker, says who it is.
- A device's client id is its certificate's CN; the cloud's own client ids start with ``cloud:``, which no
  device id can, so that no device can push the cloud off its session.
- A device publishes below its own ``up`` and hears its own ``down`` and its tenant's ``blob``; the cloud
  hears every ``up`` and publishes to every ``down`` and ``blob``. Nothing else is granted.
- NATS writes ``/`` as ``.`` and ``+`` as ``*``.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloud.auth.ca import Subject
from cloud.errors import AdmissionError
from fleet.errors import WireError
from fleet.wire import topics

CLOUD_PREFIX = "cloud:"
DEVICE_UNIT = "device"
CLOUD_UNIT = "cloud"
_ROOT = topics.ROOT.replace("/", ".")


@dataclass(frozen=True)
class Peer:
    """What the broker tells about a connection.

    Attributes:
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


def permissions(peer: Peer, *, now: float) -> Permissions:
    """What `peer` may do, by its certificate alone; the registry is asked by the caller.

    Raises:
        AdmissionError: it may not connect.
    """
    if peer.kind != "mqtt":
        raise AdmissionError(f"expected an MQTT connection, found {peer.kind!r}; use the MQTT port")
    if now > peer.not_after:
        raise AdmissionError(
            f"the certificate of {peer.subject.name!r} expired at {peer.not_after:.0f}; enrol again"
        )
    if peer.subject.unit == DEVICE_UNIT:
        return _device(peer)
    if peer.subject.unit == CLOUD_UNIT:
        return _cloud(peer)
    raise AdmissionError(
        f"expected a certificate of a device or of the cloud, found unit {peer.subject.unit!r}"
    )


def _device(peer: Peer) -> Permissions:
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
        expires=peer.not_after,
    )


def _cloud(peer: Peer) -> Permissions:
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
