"""The key that a compiling host signs its attestations with, and the public keys of other hosts.

It says which host made an artifact, nothing more: a release names the hosts that its artifacts may come
from, and devices believe the release.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from compiler.errors import AttestationError
from fleet.wire import envelope
from fleet.wire.envelope import PublicKey, Signer
from ota.errors import MetadataError
from ota.signing import secret_files
from ota.verify import attestation


def path() -> Path:
    """Where the key is: ``OUTRIDER_COMPILE_KEY``, else in the user's data folder."""
    chosen = os.environ.get("OUTRIDER_COMPILE_KEY")
    if chosen:
        return Path(chosen).expanduser()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "outrider" / "compile-key.pem"


def load() -> ed25519.Ed25519PrivateKey:
    """This host's key, made on first use, readable by its owner only.

    Raises:
        AttestationError: it can be neither read nor made.
    """
    file = path()
    try:
        if not file.exists():
            _make(file)
    except OSError as error:
        raise AttestationError(f"{file}: expected a place for a key, found: {error}") from None
    return _read(file)


def existing(file: Path) -> ed25519.Ed25519PrivateKey | None:
    """The key in a file, or None where no host has made one yet.

    Raises:
        AttestationError: there is one that cannot be used.
    """
    return _read(file) if file.exists() else None


def signer() -> Signer:
    """Signs with this host's key."""
    return envelope.signer(load())


def trusted() -> dict[str, PublicKey]:
    """Whose attestations this host believes: its own."""
    return by_id(load().public_key())


def by_id(*public: PublicKey) -> dict[str, PublicKey]:
    """Keys by their ids."""
    return {envelope.key_id(key): key for key in public}


def public_pem() -> str:
    """This host's public key, for those who should believe its attestations."""
    pem = (
        load()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem.decode("ascii")


def public(file: Path) -> dict[str, PublicKey]:
    """Another host's public key, by its id.

    Raises:
        AttestationError: the file holds none.
    """
    try:
        return attestation.public_keys([file.read_bytes().decode("ascii")])
    except (OSError, UnicodeDecodeError, MetadataError) as error:
        raise AttestationError(
            f"{file}: {error}; ask the compiling host for `outrider artifact key`"
        ) from None


def folder(path: Path) -> dict[str, PublicKey]:
    """The public keys in a folder: one in each ``*.pem``.

    Raises:
        AttestationError: there is none, or a file holds none.
    """
    files = sorted(path.glob("*.pem"))
    if not files:
        raise AttestationError(f"{path}: expected a folder with public keys (*.pem), found none")
    return {name: key for file in files for name, key in public(file).items()}


def _read(file: Path) -> ed25519.Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise AttestationError(
            f"{file}: expected an Ed25519 private key in PEM, found: {error}; correct or remove it"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise AttestationError(f"{file}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def _make(file: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret_files.create(file, pem)  # another process may have been first; its key stays
