"""Statements about artifacts, and the envelopes that they are signed in.

Formats: in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md)
in a DSSE v1 envelope (https://github.com/secure-systems-lab/dsse/blob/master/envelope.md).

Rules:
- What is signed is the encoding of type and payload together, so that neither can be exchanged.
- Reading is bounded, and answers every malformed input with `MetadataError`.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from fleet.wire.envelope import Signer
from ota.errors import MetadataError

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 4_000_000
MAX_SIGNATURES: Final = 16


class Subject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a statement is about, named by its digests (algorithm to hex)."""

    digest: dict[str, str]
    name: str = ""


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """What is stated.

    Attributes:
        subject: what it is about.
        predicate_type: URI that tells how to read the predicate.
        predicate: the statement's content.
    """

    subject: list[Subject]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: dict[str, Any] = {}
    type: str = msgspec.field(name="_type", default=STATEMENT_TYPE)


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature of an envelope; the key id is a hint and is not signed."""

    sig: str
    keyid: str = ""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A DSSE envelope: payload and signatures in base64."""

    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: list[Signature]


def seal(statement: Statement, *signers: Signer) -> bytes:
    """Sign a statement; the envelope's bytes."""
    payload = msgspec.json.encode(statement, order="deterministic")
    signed = pae(PAYLOAD_TYPE, payload)
    envelope = Envelope(
        payload=base64.b64encode(payload).decode(),
        payload_type=PAYLOAD_TYPE,
        signatures=[
            Signature(keyid=by.key_id, sig=base64.b64encode(by.sign(signed)).decode())
            for by in signers
        ],
    )
    return msgspec.json.encode(envelope)


def open_envelope(data: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The payload of an in-toto envelope and its signatures as (key id, signature), unverified.

    Raises:
        MetadataError: it is not such an envelope.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MetadataError(
            f"attestation: expected at most {MAX_ENVELOPE_BYTES} bytes, found {len(data)}"
        )
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        payload = _decoded(envelope.payload)
        signatures = [(s.keyid, _decoded(s.sig)) for s in envelope.signatures]
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise MetadataError(
            f"attestation: expected a DSSE envelope, found {error}; the artifact must be built again"
        ) from None
    if envelope.payload_type != PAYLOAD_TYPE or not 0 < len(signatures) <= MAX_SIGNATURES:
        raise MetadataError(
            f"attestation: expected {PAYLOAD_TYPE} with 1 to {MAX_SIGNATURES} signatures, found "
            f"{envelope.payload_type[:100]!r} with {len(signatures)}"
        )
    return payload, signatures


def parse(payload: bytes) -> Statement:
    """Read a statement.

    Raises:
        MetadataError: it is none.
    """
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MetadataError(f"attestation: expected an in-toto statement, found {error}") from None
    if statement.type != STATEMENT_TYPE:
        raise MetadataError(
            f"attestation: expected {STATEMENT_TYPE}, found {statement.type[:100]!r}; "
            f"update this program"
        )
    return statement


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _decoded(text: str) -> bytes:
    """Standard or URL-safe base64, as DSSE allows."""
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"base64 that cannot be decoded ({error})") from None
