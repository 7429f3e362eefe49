"""Whose attestations this cloud believes, and what a release says of them to devices.

Rules:
- Known are this host's own compile key and the public keys in ``compile-keys/`` of the data directory,
  one PEM file per compiling host; taking a file away ends the trust for later releases.
- A release key vouches only for what was verified when the release was signed: every member of the
  artifact, hashed from the blob itself.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization

from cloud.context import Context
from compiler.provenance import keys
from fleet.artifact import package
from fleet.wire.envelope import PublicKey
from ota.errors import UnattestedError
from ota.verify import attestation

FOLDER = "compile-keys"


def known(context: Context) -> dict[str, PublicKey]:
    """The keys of the compiling hosts that may attest, by key id.

    Raises:
        AttestationError: a key file cannot be used.
    """
    folder = context.settings.path(FOLDER)
    own = keys.existing(keys.path())
    found = {} if own is None else keys.by_id(own.public_key())
    return found | keys.folder(folder) if any(folder.glob("*.pem")) else found


def trust(folder: Path, pem: str, *, host: str) -> None:
    """Believe a compiling host from now on: its public key, in the data directory `folder`."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / FOLDER / f"{host}.pem").write_text(pem, encoding="ascii")


def of(context: Context, sha256: str) -> list[str]:
    """The public keys (PEM) of the known hosts that attested an artifact.

    Raises:
        UnattestedError: no known host did, or the attestation is about other bytes.
        AttestationError: a key file cannot be used.
        ManifestError: the blob is no artifact.
    """
    with context.blobs.path(sha256).open("rb") as file:
        found = package.digests(file)
    signed = []
    problem = UnattestedError(
        f"expected the public key of the compiling host in {context.settings.path(FOLDER)}, found no key at all"
    )
    for key in known(context).values():
        try:
            attestation.vouched(found.attestation, found.members, {"": key})
        except UnattestedError as error:
            problem = error
        else:
            signed.append(_pem(key))
    if not signed:
        raise problem
    return signed


def _pem(key: PublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode("ascii")
