"""From an artifact and an engine that a device built of it: the artifact that carries the engine."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from cloud.context import Context
from cloud.services import artifacts
from cloud.services.artifacts import Prepared
from compiler.provenance import attest, keys, predicate
from compiler.provenance.predicate import Provenance
from fleet.artifact import package
from fleet.artifact.manifest import Payload
from fleet.registry.tables import Artifact, EngineBuild

MEMBER: Final = "model.engine"


def derive(context: Context, source: Artifact, build: EngineBuild, engine: bytes) -> Prepared:
    """Store the derived artifact: the source's signature and golden vectors around the engine.

    It is unproven, whatever its source was, and its attestation names the source, the builder and what the engine
    depends on.

    Raises:
        ManifestError: the source cannot be read.
        AttestationError: this host has no key to attest with.
    """
    content = package.read(context.blobs.read(source.sha256))
    manifest = msgspec.structs.replace(
        content.manifest,
        payload=Payload(
            member=MEMBER, sha256=hashlib.sha256(engine).hexdigest(), size_bytes=len(engine)
        ),
        hardware_classes=[build.hardware_class],
        runtime_version=build.environment.get("tensorrt", content.manifest.runtime_version),
        status="unproven",
        latency_ms_p50=0.0,
        latency_ms_p95=0.0,
        peak_memory_mib=0.0,
    )
    derived = msgspec.structs.replace(content, manifest=manifest, payload=engine, attestation=b"")
    made = Provenance(
        asked=predicate.External(
            model=manifest.model,
            version=manifest.version,
            target=manifest.target,
            metric=manifest.metric.name,
            budget=0.0,
        ),
        recipe=predicate.Recipe(
            name=manifest.recipe,
            settings={**build.environment, "built_by": build.device, "order": build.id},
        ),
        digests={
            "model": manifest.source_sha256,
            "artifact": source.sha256,
            "offer": hashlib.sha256(build.offer).hexdigest(),
        },
        gates={},
    )
    attested = attest.attest(derived, keys.signer(), made)
    return artifacts.prepare(context, package.write(attested))
