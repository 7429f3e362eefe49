"""Attestations: whether a statement about an artifact holds.

Rules:
- Signatures are verified over the very bytes that are then parsed.
- A key counts once, however often it signed, and whatever key id a signature claims.
- A statement holds for an artifact only when one of its subjects has the artifact's digest.
- An artifact is vouched for when the statement's subjects are its members: each one, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from fleet.artifact.package import MANIFEST
from fleet.wire.envelope import PublicKey, holds, key_id
from ota.errors import (
    MetadataError,
    MismatchError,
    ThresholdError,
    UnattestedError,
    VerificationError,
)
from ota.metadata import statement as statements
from ota.metadata.statement import Statement

PROVENANCE: Final = "https://slsa.dev/provenance/v1"
"""What the attestation in an artifact must say: what made it."""


def public_keys(pems: Iterable[str]) -> dict[str, PublicKey]:
    """Keys in PEM, by `fleet.wire.envelope.key_id`.

    Raises:
        MetadataError: one is no Ed25519 or ECDSA public key.
    """
    found: dict[str, PublicKey] = {}
    for pem in pems:
        try:
            key = load_pem_public_key(pem.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MetadataError(f"expected a public key in PEM, found {error}") from None
        if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
            raise MetadataError(f"expected an Ed25519 or ECDSA key, found {type(key).__name__}")
        found[key_id(key)] = key
    return found


def vouched(
    envelope: bytes, members: Mapping[str, str], keys: Mapping[str, PublicKey]
) -> Statement:
    """The statement that one of `keys` has signed about exactly these members of an artifact.

    Args:
        envelope: the attestation that the artifact carries; empty when it carries none.
        members: sha256 of each of its other members, as `fleet.artifact.package.digests` finds them.
        keys: who may have made it.

    Raises:
        UnattestedError: there is no attestation, it does not hold, or it is about other bytes.
    """
    if not envelope:
        raise UnattestedError(
            "expected an attestation in the artifact, found none; it must be compiled again"
        )
    try:
        statement = verify(
            envelope, keys, sha256=members.get(MANIFEST, ""), predicate_type=PROVENANCE
        )
    except VerificationError as error:
        raise UnattestedError(str(error)) from error
    attested = {subject.name: subject.digest.get("sha256", "") for subject in statement.subject}
    others = sorted(
        name for name in attested.keys() | members if attested.get(name) != members.get(name)
    )
    if others:
        raise UnattestedError(
            f"attestation: expected it to be about every member as it is, found {', '.join(others)[:200]} "
            "with other bytes; the artifact must be built and attested again"
        )
    return statement


def verify(
    envelope: bytes,
    keys: Mapping[str, PublicKey],
    *,
    sha256: str,
    predicate_type: str,
    threshold: int = 1,
) -> Statement:
    """The statement of an envelope that enough of `keys` have signed about one artifact.

    Args:
        envelope: a DSSE envelope with an in-toto statement.
        keys: who may sign, by `fleet.wire.envelope.key_id`.
        sha256: of what the statement must be about, lower-case hex.
        predicate_type: what the statement must say.
        threshold: how many of the keys must have signed.

    Raises:
        ThresholdError: too few of the keys have signed.
        MismatchError: it is about something else, or says something else.
        MetadataError: it is malformed.
    """
    payload, signatures = statements.open_envelope(envelope)
    signed = statements.pae(statements.PAYLOAD_TYPE, payload)
    good = sum(
        any(holds(key, signature, signed) for _, signature in signatures) for key in keys.values()
    )
    if good < max(1, threshold):
        raise ThresholdError(
            f"attestation: expected signatures of {max(1, threshold)} of {len(keys)} known keys, "
            f"found {good}; the artifact must be attested again"
        )
    statement = statements.parse(payload)
    if statement.predicate_type != predicate_type:
        raise MismatchError(
            f"attestation: expected {predicate_type!r}, found {statement.predicate_type[:100]!r}"
        )
    digests = [subject.digest.get("sha256", "") for subject in statement.subject]
    if sha256 not in digests:
        raise MismatchError(
            f"attestation: expected it to be about {sha256}, found {', '.join(digests[:3]) or 'nothing'}"
        )
    return statement
