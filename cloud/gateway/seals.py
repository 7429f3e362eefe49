"""Opening what devices sealed: whose key signed it, and whether that key may speak for the device.

Rule: the transport's word for who sent a message is not enough, whichever transport it is.
"""

from __future__ import annotations

import functools

from cryptography.hazmat.primitives import serialization

from cloud.context import Context
from cloud.errors import AdmissionError
from fleet.errors import SignatureError
from fleet.registry.repositories import Devices
from fleet.wire import envelope
from fleet.wire.topics import UpTopic


def opened(context: Context, topic: UpTopic, data: bytes) -> tuple[bytes, bytes]:
    """The payload, when one of the device's own keys signed it, and that key (DER).

    Raises:
        WireError: no envelope.
        SignatureError: signed by nobody who may speak for the device.
        AdmissionError: the device is unknown, revoked, or of another tenant.
    """
    sealed = envelope.from_bytes(data)
    with context.read() as session:
        device = Devices(session).find(topic.device)
        keys = Devices(session).keys(topic.device)
    if device is None or device.revoked_at is not None or device.tenant != topic.tenant:
        raise AdmissionError(
            f"expected a device of tenant {topic.tenant!r}, {topic.device!r} is none"
        )
    payload = envelope.unseal(
        sealed,
        {key.key_id: _public_key(key.public_key) for key in keys},
        kind=topic.kind.value,
        device=topic.device,
        now=context.clock(),
    )
    return payload, next(key.public_key for key in keys if key.key_id == sealed.key_id)


@functools.lru_cache(maxsize=4096)
def _public_key(der: bytes) -> envelope.PublicKey:
    key = serialization.load_der_public_key(der)
    if not isinstance(key, envelope.PublicKey):
        raise SignatureError(f"expected an EC or Ed25519 key, found {type(key).__name__}")
    return key
