"""`VerifiedArtifact`: bytes that may be run, and why.

Rules:
- There are three doors, and no public constructor: signed targets metadata (`from_target`), a local
  attestation of what this host itself has just built (`from_build`), and an explicit `unsigned` for a
  person at a command line. The daemon has no way to the last; a test holds that.
- The bytes are hashed here, once, and handed on in memory: what was checked is what runs.
"""

from __future__ import annotations

import hashlib
from typing import Final

from fleet.artifact import package
from fleet.artifact.package import Package
from ota.errors import VerificationError

_DOOR: Final = object()


class VerifiedArtifact:
    """An artifact whose bytes were checked, with where the trust comes from."""

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
