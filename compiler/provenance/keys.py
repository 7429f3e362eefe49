"""The key that a compiling host signs its attestations with.

It says which host made an artifact, nothing more: what devices trust is signed into TUF metadata.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from compiler.errors import AttestationError
from fleet.wire import envelope
from fleet.wire.envelope import PublicKey, Signer
from ota.signing import secret_files


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
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise AttestationError(
            f"{file}: expected an Ed25519 private key in PEM, found: {error}; correct or remove it"
        ) from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise AttestationError(f"{file}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def signer() -> Signer:
    """Signs with this host's key."""
    return envelope.signer(load())


def trusted() -> dict[str, PublicKey]:
    """Whose attestations this host believes: its own."""
    public = load().public_key()
    return {envelope.key_id(public): public}


def _make(file: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret_files.create(file, pem)  # another process may have been first; its key stays
