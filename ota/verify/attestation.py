"""Attestations: whether a statement about an artifact holds.

Rules:
- Signatures are verified over the very bytes that are then parsed.
- A key counts once, however often it signed, and whatever key id a signature claims.
- A statement holds for an artifact only when one of its subjects has the artifact's digest.
"""

from __future__ import annotations

from collections.abc import Mapping

from fleet.wire.envelope import PublicKey, holds
from ota.errors import MismatchError, ThresholdError
from ota.metadata import statement as statements
from ota.metadata.statement import Statement


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
