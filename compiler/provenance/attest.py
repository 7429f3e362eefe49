"""Attestations of what made an artifact: an in-toto statement with SLSA provenance, signed by this host.

Formats: in-toto Statement v1; predicate https://slsa.dev/spec/v1.0/provenance; envelope DSSE v1.

The subjects are the members of the artifact's file (manifest, payload, golden vectors), each by the
digest of its content, because the statement itself is a member, too.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from compiler.errors import AttestationError
from fleet.artifact import package
from fleet.artifact.package import Package
from fleet.wire.envelope import PublicKey, Signer
from ota.metadata import statement
from ota.metadata.statement import Statement, Subject
from ota.verify import attestation

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "https://outrider.dev/compile/v1"
_MEMBER: Final = "attestation.json"


def attest(
    content: Package,
    by: Signer,
    *,
    parameters: Mapping[str, Any],
    dependencies: Mapping[str, str],
    builder: Mapping[str, str],
) -> Package:
    """The package with a signed statement of what made it.

    Args:
        content: a package without an attestation.
        by: who signs.
        parameters: what the caller asked for: target, recipe, metric.
        dependencies: sha256 by name of everything that went in: model, data, locks of tools.
        builder: versions of what built it.
    """
    made = Statement(
        subject=_subjects(package.write(content)),
        predicate_type=PREDICATE_TYPE,
        predicate={
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": dict(parameters),
                "resolvedDependencies": [
                    {"name": name, "digest": {"sha256": digest}}
                    for name, digest in sorted(dependencies.items())
                ],
            },
            "runDetails": {
                "builder": {"id": f"{BUILD_TYPE}#{by.key_id}", "version": dict(builder)},
            },
        },
    )
    return msgspec.structs.replace(content, attestation=statement.seal(made, by))


def verify(data: bytes, keys: Mapping[str, PublicKey]) -> Statement:
    """The statement in an artifact's file, when one of `keys` signed it and it is about every member.

    Raises:
        AttestationError: there is none, or a member is not what was attested.
        VerificationError: the signature does not hold.
        ManifestError: it is no artifact.
    """
    content = package.read(data)
    if not content.attestation:
        raise AttestationError("expected an attestation in the artifact, found none")
    members = _subjects(data)
    digests = {subject.name: subject.digest["sha256"] for subject in members}
    found = attestation.verify(
        content.attestation,
        keys,
        sha256=digests["manifest.json"],
        predicate_type=PREDICATE_TYPE,
    )
    attested = {subject.name: subject.digest.get("sha256") for subject in found.subject}
    if attested != digests:
        raise AttestationError(
            f"expected the members {sorted(attested)} as attested, found {sorted(digests)} with other contents"
        )
    return found


def _subjects(data: bytes) -> list[Subject]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [
            Subject(name=name, digest={"sha256": hashlib.sha256(archive.read(name)).hexdigest()})
            for name in sorted(archive.namelist())
            if name != _MEMBER
        ]
