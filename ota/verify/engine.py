"""What a device says of an engine that it built itself: an in-toto statement, signed by the device's key.

Format: in-toto Statement v1, predicate SLSA provenance v1, DSSE envelope.

Rules:
- The subject is the engine. What it was made from is the payload of a verified artifact, by its digest.
- Whoever loads the engine checks three things: the device's signature, the engine's digest, and that it was
  made from the very payload that signed metadata names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fleet.wire.envelope import PublicKey, Signer
from ota.errors import MismatchError
from ota.metadata import statement as statements
from ota.metadata.statement import Statement, Subject
from ota.verify import attestation

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "https://outrider.dev/engine/v1"
PAYLOAD: Final = "payload"


def attest(
    by: Signer,
    *,
    engine_sha256: str,
    payload_sha256: str,
    tools: Mapping[str, str],
    environment: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> bytes:
    """The signed statement about an engine.

    Args:
        by: signs with the device's key.
        engine_sha256: of the engine.
        payload_sha256: of the ONNX model that it was built from.
        tools: sha256 by name of what else had a part, such as the driver script.
        environment: what the engine depends on: versions, device, system.
        parameters: what was asked for: profiles, workspace.
    """
    made_from = {**tools, PAYLOAD: payload_sha256}
    return statements.seal(
        Statement(
            subject=[Subject(name="engine", digest={"sha256": engine_sha256})],
            predicate_type=PREDICATE_TYPE,
            predicate={
                "buildDefinition": {
                    "buildType": BUILD_TYPE,
                    "externalParameters": dict(parameters),
                    "resolvedDependencies": [
                        {"name": name, "digest": {"sha256": digest}}
                        for name, digest in sorted(made_from.items())
                    ],
                },
                "runDetails": {
                    "builder": {"id": f"{BUILD_TYPE}#{by.key_id}", "version": dict(environment)}
                },
            },
        ),
        by,
    )


def verify(
    envelope: bytes, keys: Mapping[str, PublicKey], *, engine_sha256: str, payload_sha256: str
) -> Statement:
    """The statement that one of `keys` made about an engine of this payload.

    Raises:
        VerificationError: the signature does not hold, or it is about something else.
    """
    found = attestation.verify(envelope, keys, sha256=engine_sha256, predicate_type=PREDICATE_TYPE)
    definition = found.predicate.get("buildDefinition")
    if not isinstance(definition, dict) or definition.get("buildType") != BUILD_TYPE:
        raise MismatchError(f"attestation: expected a build of type {BUILD_TYPE}, found another")
    if payload_of(found) != payload_sha256:
        raise MismatchError(
            f"attestation: expected an engine of the payload {payload_sha256}, "
            f"found one of {payload_of(found) or 'nothing'}; it must be built again"
        )
    return found


def payload_of(statement: Statement) -> str:
    """Sha256 of what an engine was built from; empty when the statement does not say."""
    definition = statement.predicate.get("buildDefinition")
    listed = definition.get("resolvedDependencies") if isinstance(definition, dict) else None
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and entry.get("name") == PAYLOAD:
            digest = entry.get("digest")
            return str(digest.get("sha256", "")) if isinstance(digest, dict) else ""
    return ""
