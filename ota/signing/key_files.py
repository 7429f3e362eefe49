"""Private keys in files that only their owner may read, and public keys in files that anybody may.

Rules:
- A private key is Ed25519 in a PKCS #8 PEM file of mode 0600; a file that others may read is refused.
- It is encrypted under a passphrase where one is given; one that is encrypted is read with it only.
- A file is never overwritten.
- A public key file is JSON: the key as TUF metadata has it, and its key id. PEM is read too.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from ota.errors import KeyFileError
from ota.signing import secret_files

MIN_PASSPHRASE_LENGTH = 12
_MAX_FILE_BYTES = 65_536


def create(path: Path, key: Ed25519PrivateKey, *, passphrase: str = "") -> bool:
    """Write a private key; what is there stays.

    Args:
        path: the file.
        key: the key.
        passphrase: encrypts it; empty leaves it in the clear.

    Returns:
        Whether this call made the file.

    Raises:
        KeyFileError: the passphrase is too short.
    """
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        check_passphrase(passphrase)
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    return secret_files.create(path, pem)


def check_passphrase(passphrase: str) -> None:
    """Refuse what is guessed quickly. Raises KeyFileError."""
    if len(passphrase) < MIN_PASSPHRASE_LENGTH:
        raise KeyFileError(
            f"expected a passphrase of at least {MIN_PASSPHRASE_LENGTH} characters, "
            f"found {len(passphrase)}; take several words"
        )


def read(path: Path, *, passphrase: str = "") -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        KeyFileError: it is missing, unreadable, readable by others, or the passphrase is not its own.
    """
    pem = read_secret(path, what="a key file")
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except TypeError:
        raise KeyFileError(
            f"{path}: expected {'a key in the clear' if not passphrase else 'an encrypted key'}, found "
            f"{'an encrypted one; give its passphrase' if not passphrase else 'one in the clear; give no passphrase'}"
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path}: expected a private key as PKCS #8 PEM"
            f"{' and its passphrase' if passphrase else ''}, found {error}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: expected an Ed25519 key, found {type(key).__name__}")
    return key


def is_encrypted(path: Path) -> bool:
    """Whether a private key needs a passphrase. Raises KeyFileError."""
    return b"BEGIN ENCRYPTED PRIVATE KEY" in read_secret(path, what="a key file")


def read_secret(path: Path, *, what: str) -> bytes:
    """The bytes of a file that only its owner may read.

    Raises:
        KeyFileError: it is missing, unreadable, or readable by others.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(
            f"{path}: expected {what}, found {error.strerror}; create it or bring it back"
        ) from None
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: expected {what} that only its owner may read (mode 0600), found {mode:04o}; "
            f"run chmod 600 on it, and replace what is in it if others may have read it"
        )
    return data


def signer(path: Path, *, passphrase: str = "") -> Signer:
    """The signer over a private key's file. Raises KeyFileError."""
    return CryptoSigner(read(path, passphrase=passphrase))


def public_of(key: Ed25519PrivateKey) -> Key:
    """The public half of a private key."""
    return CryptoSigner(key).public_key


def public_document(key: Key) -> dict[str, Any]:
    """A public key as JSON has it: the key as in TUF metadata, and its id."""
    return {"keyid": key.keyid, **key.to_dict()}


def public_from(document: Any, *, name: str) -> Key:
    """The key out of `public_document`'s answer.

    Raises:
        KeyFileError: it is none.
    """
    try:
        fields = dict(document)
        keyid = str(fields.pop("keyid"))
        return Key.from_dict(keyid, fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise KeyFileError(f"{name}: expected a public key as JSON, found {error!r}") from None


def write_public(path: Path, key: Key) -> None:
    """Write a public key for others to read."""
    document = json.dumps(public_document(key), indent=2) + "\n"
    with path.open("x", encoding="utf-8") as file:
        file.write(document)


def read_public(path: Path) -> Key:
    """Read a public key: JSON as `write_public` makes it, or PEM as others make it.

    Raises:
        KeyFileError: the file is missing or holds no public key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"{path}: expected a public key file, found {error.strerror}") from None
    if b"PRIVATE KEY" in data:
        raise KeyFileError(
            f"{path}: expected a public key, found a private one; keep it where it belongs and give the .pub"
        )
    try:
        if data.lstrip().startswith(b"-----BEGIN"):
            return SSlibKey.from_crypto(serialization.load_pem_public_key(data))
        return public_from(json.loads(data), name=str(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path}: expected a public key as JSON or PEM, found {str(error)[:200]}"
        ) from None
