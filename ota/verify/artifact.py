"""`VerifiedArtifact`: bytes that may be run, and why.

Rules:
- There are four doors, and no public constructor: signed targets metadata (`from_target`), what this very
  process has just built (`from_build`), an engine that this device built from a verified artifact and
  attested (`from_device`), and an explicit `unsigned` for a person at a command line. The daemon has no way
  to the last; a test holds that.
- The bytes are hashed here, once, and handed on in memory: what was checked is what runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from fleet.artifact import package
from fleet.artifact.manifest import Payload
from fleet.artifact.package import Package
from fleet.wire.envelope import PublicKey
from ota.errors import VerificationError
from ota.verify import engine as engines

ENGINE_MEMBER: Final = "model.engine"
_DOOR: Final = object()


class VerifiedArtifact:
    """An artifact whose bytes were checked, with where the trust comes from.

    Attributes:
        sha256: of the artifact's file; of an engine that a device built, that of the artifact it was built from.
    """

    __slots__ = ("package", "provenance", "sha256")

    def __init__(self, door: object, *, content: Package, sha256: str, provenance: str) -> None:
        if door is not _DOOR:
            raise TypeError(
                "a VerifiedArtifact comes from from_target, from_build or unsigned only"
            )
        self.package = content
        self.sha256 = sha256
        self.provenance = provenance


def from_target(data: bytes, *, sha256: str, length_bytes: int) -> VerifiedArtifact:
    """An artifact whose digest and length stand in verified targets metadata.

    Raises:
        VerificationError: the bytes are not those.
        ManifestError: they are, and are no artifact.
    """
    found = hashlib.sha256(data).hexdigest()
    if len(data) != length_bytes or found != sha256:
        raise VerificationError(
            f"expected an artifact of {length_bytes} bytes with sha256 {sha256}, "
            f"found {len(data)} bytes with {found}; it must be fetched again",
        )
    return VerifiedArtifact(_DOOR, content=package.read(data), sha256=found, provenance="tuf")


def from_build(content: Package) -> VerifiedArtifact:
    """An artifact that this very process has just built or had built by its own toolchain."""
    data = package.write(content)
    return VerifiedArtifact(
        _DOOR, content=content, sha256=hashlib.sha256(data).hexdigest(), provenance="build"
    )


def from_device(
    source: VerifiedArtifact, engine: bytes, *, attestation: bytes, keys: Mapping[str, PublicKey]
) -> VerifiedArtifact:
    """The engine that this device built from a verified artifact, in the artifact's place.

    Args:
        source: the artifact, as signed metadata names it.
        engine: what was built from its payload.
        attestation: the device's statement about it, see `ota.verify.engine`.
        keys: the device's own key, by its id.

    Raises:
        VerificationError: the statement does not hold, or is about other bytes.
    """
    found = hashlib.sha256(engine).hexdigest()
    manifest = source.package.manifest
    engines.verify(attestation, keys, engine_sha256=found, payload_sha256=manifest.payload.sha256)
    payload = Payload(member=ENGINE_MEMBER, sha256=found, size_bytes=len(engine))
    content = msgspec.structs.replace(
        source.package,
        payload=engine,
        manifest=msgspec.structs.replace(manifest, payload=payload),
    )
    return VerifiedArtifact(_DOOR, content=content, sha256=source.sha256, provenance="device")


def unsigned(data: bytes) -> VerifiedArtifact:
    """An artifact that a person asked to run without a signature.

    Raises:
        ManifestError: the bytes are no artifact.
    """
    return VerifiedArtifact(
        _DOOR,
        content=package.read(data),
        sha256=hashlib.sha256(data).hexdigest(),
        provenance="unsigned",
    )
