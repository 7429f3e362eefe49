"""Signatures on messages: every message but blocks and presence travels in an envelope.

Rules:
- The signature covers kind, device, counter, expiry and payload, each length-prefixed (the
  pre-authentication encoding of DSSE v1, https://github.com/secure-systems-lab/dsse), so that no
  field can be moved into another.
- Downward envelopes are bound to one device, carry a counter and expire; upward ones are signed by
  the device's own key, with the sequence number as counter and no expiry.
- Keys are ECDSA P-256 (devices; what TPMs offer) or Ed25519 (cloud). Software keys sign deterministically
  (RFC 6979): a device that has just booted may have little entropy, and a weak nonce gives its key away.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from fleet.errors import SignatureError
from fleet.wire import codec

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

T = TypeVar("T")


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A signed message.

    Attributes:
        kind: last level of the topic: ``birth``, ``desired``, ...
        device: id of the device that sends it, or that it is for.
        counter: sequence number (up) or strictly growing counter (down).
        expires: Unix time after which it is refused; 0 means never.
        payload: the encoded message.
        key_id: `key_id` of the signing key.
    """

    kind: str
    device: str
    counter: int
    expires: float
    payload: bytes
    key_id: str
    signature: bytes


class Signer(msgspec.Struct, frozen=True):
    """Something that signs bytes under a key id; a software key, or a TPM or HSM behind a callable."""

    key_id: str
    sign: Callable[[bytes], bytes]


def key_id(key: PublicKey) -> str:
    """First 16 hex digits of the SHA-256 of the DER SubjectPublicKeyInfo."""
    der = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(der).hexdigest()[:16]


def signer(key: PrivateKey) -> Signer:
    """A signer over a software key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        return Signer(key_id(key.public_key()), lambda data: key.sign(data, algorithm))
    return Signer(key_id(key.public_key()), key.sign)


def seal(
    kind: str, device: str, payload: bytes, by: Signer, *, counter: int, expires: float = 0.0
) -> Envelope:
    """Sign `payload` as a message of `kind` from or for `device`."""
    signature = by.sign(_to_be_signed(kind, device, counter, expires, payload))
    return Envelope(
        kind=kind,
        device=device,
        counter=counter,
        expires=expires,
        payload=payload,
        key_id=by.key_id,
        signature=signature,
    )


def unseal(
    envelope: Envelope, keys: dict[str, PublicKey], *, kind: str, device: str, now: float
) -> bytes:
    """Return the payload of an envelope that was signed by one of `keys` for this kind and device.

    Args:
        envelope: what arrived.
        keys: the public keys that may sign it, by `key_id`.
        kind: the kind that the topic promised.
        device: the device that the topic promised.
        now: trusted time, seconds since the epoch.

    Raises:
        SignatureError: wrong kind, device, key or signature, or expired.
    """
    if (envelope.kind, envelope.device) != (kind, device):
        raise SignatureError(
            f"expected a message {kind!r} for {device!r}, found {envelope.kind!r} for {envelope.device!r}",
        )
    if not math.isfinite(envelope.expires):
        raise SignatureError(
            f"message {kind!r}: expected an expiry in seconds, found {envelope.expires}"
        )
    if envelope.expires and now > envelope.expires:
        raise SignatureError(
            f"message {kind!r} expired at {envelope.expires:.0f}, it is {now:.0f} now"
        )
    key = keys.get(envelope.key_id)
    if key is None:
        raise SignatureError(f"message {kind!r} is signed by the unknown key {envelope.key_id!r}")
    signed = _to_be_signed(
        envelope.kind, envelope.device, envelope.counter, envelope.expires, envelope.payload
    )
    if not holds(key, envelope.signature, signed):
        raise SignatureError(f"message {kind!r} for {device!r}: the signature does not hold")
    return envelope.payload


def holds(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is the key's over `data`."""
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        else:
            key.verify(signature, data)
    except InvalidSignature:
        return False
    return True


def to_bytes(envelope: Envelope) -> bytes:
    """The envelope as it travels: MessagePack, because its payload is bytes already."""
    return codec.to_msgpack(envelope)


def from_bytes(data: bytes) -> Envelope:
    """Parse an envelope.

    Raises:
        WireError: it is not one.
    """
    return codec.from_msgpack(Envelope, data)


def _to_be_signed(kind: str, device: str, counter: int, expires: float, payload: bytes) -> bytes:
    fields = (
        b"outrider/v1",
        kind.encode(),
        device.encode(),
        str(counter).encode(),
        repr(expires).encode(),
        payload,
    )
    return b" ".join(b"%d %s" % (len(field), field) for field in fields)
