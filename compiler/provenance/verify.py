"""Checking an artifact's attestation offline, step by step, so that a person sees what was proved.

Rules:
- Each step names what was held against what; the first that does not hold raises.
- The statement is believed only after its signature; the manifest only after its digest.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.errors import AttestationError
from compiler.evaluate.gates import RUN_ON_HOST
from compiler.provenance import predicate as predicates
from compiler.provenance.predicate import Predicate
from fleet.artifact import package
from fleet.artifact.manifest import Manifest
from fleet.artifact.package import Package
from fleet.wire.envelope import PublicKey
from ota.errors import UnattestedError
from ota.metadata.statement import Statement
from ota.verify import attestation

_PROVED = {
    "accepted": "no gate failed, and those of quality were run on the file",
    "unproven": "no gate failed, those of quality were run on what stands in for the file",
}


@dataclass(frozen=True)
class Step:
    """One thing that was proved."""

    name: str
    detail: str


@dataclass(frozen=True)
class Verified:
    """An artifact whose attestation holds.

    Attributes:
        key_id: of the host that signed.
        steps: what was proved, in order.
    """

    key_id: str
    manifest: Manifest
    statement: Statement
    predicate: Predicate
    steps: list[Step]


def verify(data: bytes, keys: Mapping[str, PublicKey]) -> Verified:
    """Check everything that an artifact's file says of itself.

    Args:
        data: the file.
        keys: whose attestations are believed.

    Raises:
        ManifestError: it is no artifact, or the payload is not the manifest's.
        UnattestedError: there is no attestation, none of the keys signed it, or a member is another.
        AttestationError: the statement and the manifest contradict each other.
    """
    found = package.digests(io.BytesIO(data))
    content = package.read(data)
    key_id, statement = _signed(found, keys)
    predicate = predicates.read(statement.predicate)
    steps = [
        Step("signature", f"by the compiling host {key_id}"),
        Step("members", f"{', '.join(sorted(found.members))}: each as attested"),
        Step("payload", _payload(content)),
        Step("identity", _identity(content.manifest, predicate)),
        Step("gates", _gates(content.manifest, predicate)),
    ]
    return Verified(key_id, content.manifest, statement, predicate, steps)


def _signed(found: package.Digests, keys: Mapping[str, PublicKey]) -> tuple[str, Statement]:
    """Which key signed, and what."""
    statement = attestation.vouched(found.attestation, found.members, keys)
    for key_id, key in keys.items():
        with contextlib.suppress(UnattestedError):
            attestation.vouched(found.attestation, found.members, {key_id: key})
            return key_id, statement
    raise AssertionError("one of the keys has signed, see above")


def _payload(content: Package) -> str:
    """`package.read` has held the payload against the manifest; say so with the digest."""
    digest = hashlib.sha256(content.payload).hexdigest()
    return f"{content.manifest.payload.member} is sha256 {digest}, as the manifest says"


def _identity(manifest: Manifest, predicate: Predicate) -> str:
    asked = predicate.build_definition.external_parameters
    recipe = predicate.build_definition.internal_parameters.recipe
    digests = {
        resource.name: resource.digest.get("sha256", "")
        for resource in predicate.build_definition.resolved_dependencies
    }
    _same("model", manifest.model, asked.model)
    _same("version", manifest.version, asked.version)
    _same("target", manifest.target, asked.target)
    _same("recipe", manifest.recipe, recipe.name)
    _same("source_sha256", manifest.source_sha256, digests.get("model", ""))
    return f"{asked.model} {asked.version} for {asked.target} by {recipe.name}, from the model attested"


def _gates(manifest: Manifest, predicate: Predicate) -> str:
    """The status that the manifest claims is what the attested gates bear out."""
    gates = predicate.gates
    failed = sorted(name for name, gate in gates.items() if gate.passed is False)
    not_run = sorted(name for name, gate in gates.items() if gate.passed is None)
    quality = [name for name in not_run if name in RUN_ON_HOST]
    borne_out = "" if failed or not gates else "unproven" if quality else "accepted"
    if manifest.status != borne_out:
        raise AttestationError(
            f"expected a status that the attested gates bear out ({_PROVED.get(borne_out, 'none did')}: "
            f"{', '.join(gates) or 'no gates'}), found {manifest.status!r}; compile it again"
        )
    _same("metric", manifest.metric.name, predicate.build_definition.external_parameters.metric)
    figures = gates["metric"].figures if "metric" in gates else {}
    for key, value in (("value", manifest.metric.value), ("reference", manifest.metric.reference)):
        if key in figures:
            _same(f"metric.{key}", value, figures[key])
    tail = f", not run here: {', '.join(not_run)}" if not_run else ""
    return f"{', '.join(gates)}: {_PROVED[borne_out]}{tail}"


def _same(what: str, manifest: object, stated: object) -> None:
    if manifest != stated:
        raise AttestationError(
            f"{what}: expected {stated!r} as attested, the manifest says {manifest!r}; compile it again"
        )
