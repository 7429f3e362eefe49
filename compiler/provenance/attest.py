"""Attestations of what made an artifact: an in-toto statement with SLSA provenance, signed by this host.

Formats: in-toto Statement v1; predicate https://slsa.dev/spec/v1.0/provenance (`predicate`); envelope DSSE v1.

The subjects are the members of the artifact's file (manifest, payload, golden vectors), each by the
digest of its content, because the statement itself is a member, too.
"""

from __future__ import annotations

import io
from typing import Any

import msgspec

from compiler.provenance.predicate import Provenance
from fleet.artifact import package
from fleet.artifact.package import Package
from fleet.wire.envelope import Signer
from ota.metadata import statement
from ota.metadata.statement import Statement, Subject
from ota.verify import attestation


def attest(content: Package, by: Signer, provenance: Provenance) -> Package:
    """The package with a signed statement of what made it.

    Args:
        content: a package without an attestation.
        by: who signs.
        provenance: what made it.
    """
    members = package.digests(io.BytesIO(package.write(content))).members
    predicate: dict[str, Any] = msgspec.to_builtins(provenance.predicate(by.key_id))
    made = Statement(
        subject=[
            Subject(name=name, digest={"sha256": digest})
            for name, digest in sorted(members.items())
        ],
        predicate_type=attestation.PROVENANCE,
        predicate=predicate,
    )
    return msgspec.structs.replace(content, attestation=statement.seal(made, by))
