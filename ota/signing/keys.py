"""Who signs what, and with which key of the data directory.

Rules:
- `create_keystore` makes a key for each role that has none; a key is never overwritten.
- The signers of an existing repository are those whose keys its documents name (`Keystore.signer`). They
  are looked for when they sign, so that a lost key stops its own role alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key, Signer
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from fleet.wire import envelope
from ota.errors import KeyFileError
from ota.metadata.director import DirectorSigners
from ota.metadata.image import ImageSigners
from ota.metadata.release import check_model
from ota.signing import key_files
from ota.signing.keystore import Keystore
from ota.signing.signers import Deferred

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
    AUDIT = "audit"


OFFLINE = frozenset({Role.IMAGE_ROOT, Role.DIRECTOR_ROOT})
"""Roles whose keys the service does not need once the repositories exist."""

UNDER_ROOT = {
    Role.IMAGE_TARGETS: ("image", Targets.type),
    Role.IMAGE_SNAPSHOT: ("image", Snapshot.type),
    Role.IMAGE_TIMESTAMP: ("image", Timestamp.type),
    Role.DIRECTOR_TARGETS: ("director", Targets.type),
}
"""The repository, and the role in its root, of each role that a root names."""


def create_keystore(folder: Path, *, generate: Generate = Ed25519PrivateKey.generate) -> None:
    """Make a key for each role that has none yet, under ``keys/`` and ``offline/`` of `folder`.

    Args:
        folder: where the keys are.
        generate: makes a private key; the simulator's keys follow from its seed.
    """
    for role in Role:
        create_key(folder, role, generate=generate)


def create_key(
    folder: Path, role: Role, *, generate: Generate = Ed25519PrivateKey.generate
) -> None:
    """Make the key of a role that has none yet."""
    path = Keystore(folder).newest_path(role.value)
    if not path.exists():
        key_files.create(path, generate())


def create_release_key(
    folder: Path, model: str, *, generate: Generate = Ed25519PrivateKey.generate
) -> Signer:
    """Make the release key of a model, or load the newest where there is one.

    Raises:
        ReleaseError: the model's name is not legal.
        KeyFileError: there is one that cannot be used.
    """
    store, role = Keystore(folder), release_role(model)
    path = store.newest_path(role)
    if not path.exists():
        key_files.create(path, generate())
    return store.newest(role)


def release_role(model: str) -> str:
    """The name of a model's release key among the roles. Raises ReleaseError."""
    return f"release/{check_model(model)}"


def release_signer(folder: Path, model: str, keys: Sequence[Key]) -> Signer:
    """The signer of a model's releases; it raises `KeyFileError` when it signs and is not there.

    Args:
        folder: where the keys are.
        model: the model.
        keys: those that its delegation names.

    Raises:
        ReleaseError: the model's name is not legal.
    """
    role, keyids = release_role(model), [key.keyid for key in keys]
    return Deferred(lambda: Keystore(folder).signer(role, keyids))


def message_signer(folder: Path) -> envelope.Signer:
    """Signs messages to devices (`fleet.wire.envelope.seal`).

    Raises:
        KeyFileError: its key is missing, unreadable, or readable by others.
    """
    return envelope.signer(key_files.read(Keystore(folder).newest_path(Role.MESSAGES.value)))


def image_signers(folder: Path, root: Root | None = None) -> ImageSigners:
    """All who sign the image repository.

    Args:
        folder: where the keys are.
        root: its root; None for a new repository, which its own root key signs too.

    Raises:
        KeyFileError: a root's key is missing, unreadable, or readable by others.
    """
    return ImageSigners(
        targets=_under(folder, Role.IMAGE_TARGETS, root),
        snapshot=_under(folder, Role.IMAGE_SNAPSHOT, root),
        timestamp=_under(folder, Role.IMAGE_TIMESTAMP, root),
        root=() if root else (_offline(folder, Role.IMAGE_ROOT),),
    )


def director_signers(folder: Path, root: Root | None = None) -> DirectorSigners:
    """All who sign for the director; arguments and errors as of `image_signers`, and its message key's."""
    messages = CryptoSigner(key_files.read(Keystore(folder).newest_path(Role.MESSAGES.value)))
    return DirectorSigners(
        targets=_under(folder, Role.DIRECTOR_TARGETS, root),
        messages=(messages.public_key,),
        root=() if root else (_offline(folder, Role.DIRECTOR_ROOT),),
    )


def audit_signer(folder: Path) -> Signer:
    """Signs the audit log's checkpoints; it raises `KeyFileError` when it signs and is not there."""
    return Deferred(lambda: Keystore(folder).newest(Role.AUDIT.value))


def _under(folder: Path, role: Role, root: Root | None) -> Signer:
    if root is None:
        return Deferred(lambda: Keystore(folder).newest(role.value))
    keyids = root.roles[UNDER_ROOT[role][1]].keyids
    return Deferred(lambda: Keystore(folder).signer(role.value, keyids))


def _offline(folder: Path, role: Role) -> Signer:
    path = Keystore(folder).newest_path(role.value)
    if not path.exists():
        raise KeyFileError(
            f"{path}: expected a key file, found none; a new repository is made with its root's key: bring it back"
        )
    return Keystore(folder).newest(role.value)
