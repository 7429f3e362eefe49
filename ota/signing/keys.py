"""Signing keys in files, one per role.

Rules:
- Every key is Ed25519 in a PKCS #8 PEM file that only its owner may read (mode 0600, in a folder of
  mode 0700); a file that others may read is refused.
- The keys of the two roots are kept in ``offline/``, apart from ``keys/``: the service signs without
  them, and an operator carries them away.
- A key is never overwritten.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from fleet.wire import envelope
from ota.errors import KeyFileError
from ota.metadata.director import DirectorSigners
from ota.metadata.image import ImageSigners
from ota.metadata.release import check_model
from ota.signing import secret_files

Generate = Callable[[], Ed25519PrivateKey]


class Role(str, Enum):
    """Who signs what."""

    IMAGE_ROOT = "image-root"
    IMAGE_TARGETS = "image-targets"
    IMAGE_SNAPSHOT = "image-snapshot"
    IMAGE_TIMESTAMP = "image-timestamp"
    DIRECTOR_ROOT = "director-root"
    DIRECTOR_TARGETS = "director-targets"
    MESSAGES = "messages"


OFFLINE = frozenset({Role.IMAGE_ROOT, Role.DIRECTOR_ROOT})
"""Roles whose keys the service does not need once the repositories exist."""


def create_keystore(folder: Path, *, generate: Generate = Ed25519PrivateKey.generate) -> None:
    """Make a key for each role that has none yet, under ``keys/`` and ``offline/`` of `folder`.

    Args:
        folder: where the keys are.
        generate: makes a private key; the simulator's keys follow from its seed.
    """
    for role in Role:
        path = _path(folder, role)
        if not path.exists():
            _write(path, generate())


def create_release_key(
    folder: Path, model: str, *, generate: Generate = Ed25519PrivateKey.generate
) -> CryptoSigner:
    """Make the release key of a model, or load it where there is one.

    Raises:
        ReleaseError: the model's name is not legal.
        KeyFileError: there is one that cannot be used.
    """
    path = _release_path(folder, model)
    if not path.exists():
        _write(path, generate())
    return load_release_signer(folder, model)


def load_signer(folder: Path, role: Role) -> CryptoSigner:
    """The signer of a role.

    Raises:
        KeyFileError: its key is missing, unreadable, or readable by others.
    """
    return CryptoSigner(_read(_path(folder, role)))


def load_release_signer(folder: Path, model: str) -> CryptoSigner:
    """The signer of a model's releases.

    Raises:
        ReleaseError: the model's name is not legal.
        KeyFileError: its key is missing, unreadable, or readable by others.
    """
    return CryptoSigner(_read(_release_path(folder, model)))


def message_signer(folder: Path) -> envelope.Signer:
    """Signs messages to devices (`fleet.wire.envelope.seal`).

    Raises:
        KeyFileError: its key is missing, unreadable, or readable by others.
    """
    return envelope.signer(_read(_path(folder, Role.MESSAGES)))


def image_signers(folder: Path, *, offline: bool = False) -> ImageSigners:
    """All who sign the image repository; its root only with `offline`.

    Raises:
        KeyFileError: a key is missing, unreadable, or readable by others.
    """
    return ImageSigners(
        targets=load_signer(folder, Role.IMAGE_TARGETS),
        snapshot=load_signer(folder, Role.IMAGE_SNAPSHOT),
        timestamp=load_signer(folder, Role.IMAGE_TIMESTAMP),
        root=tuple(_root(folder, Role.IMAGE_ROOT, offline=offline)),
    )


def director_signers(folder: Path, *, offline: bool = False) -> DirectorSigners:
    """All who sign for the director; its root only with `offline`.

    Raises:
        KeyFileError: a key is missing, unreadable, or readable by others.
    """
    return DirectorSigners(
        targets=load_signer(folder, Role.DIRECTOR_TARGETS),
        messages=(load_signer(folder, Role.MESSAGES).public_key,),
        root=tuple(_root(folder, Role.DIRECTOR_ROOT, offline=offline)),
    )


def _root(folder: Path, role: Role, *, offline: bool) -> Iterator[CryptoSigner]:
    if offline:
        yield load_signer(folder, role)


def _path(folder: Path, role: Role) -> Path:
    return folder / ("offline" if role in OFFLINE else "keys") / f"{role.value}.pem"


def _release_path(folder: Path, model: str) -> Path:
    return folder / "keys" / "release" / f"{check_model(model)}.pem"


def _write(path: Path, key: Ed25519PrivateKey) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    secret_files.create(path, pem)


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            pem = file.read(65_536)
    except OSError as error:
        raise KeyFileError(
            f"{path}: expected a key file, found {error.strerror}; create it or bring it back"
        ) from None
    if mode & 0o077:
        raise KeyFileError(
            f"{path}: expected a key that only its owner may read (mode 0600), found {mode:04o}; "
            f"run chmod 600 on it, and replace the key if others may have read it"
        )
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{path}: expected a private key as PKCS #8 PEM, found {error}"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path}: expected an Ed25519 key, found {type(key).__name__}")
    return key
