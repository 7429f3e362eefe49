"""Root documents: the first one of a repository, the chain that follows, and what is kept of both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root

from ota.errors import CeremonyError, MetadataError
from ota.metadata import documents

ROOT_DAYS: Final = 3 * 365
REPOSITORY_FIELD: Final = "x-outrider-repository"
"""Says in a root which repository it is of: holders may have one key for both."""
_DAY_S: Final = 86_400


def first(
    keys: Mapping[str, Sequence[Key]],
    *,
    signers: Sequence[Signer],
    threshold: int,
    now: float,
    repository: str = "",
) -> bytes:
    """Sign a repository's first root.

    Args:
        keys: the keys of each role but root, by role; a role that is left out has none.
        signers: the root's own signers.
        threshold: how many of them must sign a root.
        now: the time, seconds since the epoch.
        repository: its name, which every root of the chain will carry; empty: none.
    """
    root = Root(version=1, expires=documents.moment(now + ROOT_DAYS * _DAY_S))
    if repository:
        root.unrecognized_fields[REPOSITORY_FIELD] = repository
    for signer in signers:
        root.add_key(signer.public_key, Root.type)
    root.roles[Root.type].threshold = threshold
    for role, role_keys in keys.items():
        for key in role_keys:
            root.add_key(key, role)
    return documents.write(root, signers)


def following(root: Root, *, repository: str, now: float) -> Root:
    """The root after `root`, with the same keys and a new expiry; its caller changes it and has it signed."""
    new = Root.from_dict(root.to_dict())
    new.unrecognized_fields[REPOSITORY_FIELD] = repository
    new.version = root.version + 1
    new.expires = documents.moment(now + ROOT_DAYS * _DAY_S)
    return new


def replace_keys(root: Root, role: str, keys: Sequence[Key], *, threshold: int = 1) -> None:
    """Give a role other keys.

    Args:
        root: a root that is not signed yet.
        role: the role in it.
        keys: its keys from now on.
        threshold: how many of them must sign.

    Raises:
        CeremonyError: the threshold cannot be reached, or a key stands twice.
    """
    distinct = {key.keyid for key in keys}
    if len(distinct) != len(keys):
        raise CeremonyError(f"{role}: expected each key once, found one twice; leave it out")
    if not 1 <= threshold <= len(keys):
        raise CeremonyError(
            f"{role}: expected a threshold of 1 to {len(keys)}, the number of keys, found {threshold}"
        )
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys:
        root.add_key(key, role)
    root.roles[role].threshold = threshold


def keys_of(root: Root, role: str, *, without: Collection[str] = ()) -> list[Key]:
    """The keys of a role, but for some key ids."""
    return [root.keys[keyid] for keyid in root.roles[role].keyids if keyid not in without]


def latest(files: Mapping[str, bytes], *, name: str) -> tuple[int, Root]:
    """The newest root among ``N.root.json``.

    Raises:
        MetadataError: there is none, or it is malformed.
    """
    versions = [int(n[: -len(".root.json")]) for n in files if _is_root(n)]
    if not versions:
        raise MetadataError(f"{name}: expected a 1.root.json, found none; create the repository")
    newest = max(versions)
    data = files[f"{newest}.root.json"]
    return newest, documents.read(Root, data, name=f"{name}/{newest}.root.json").signed


def need(files: Mapping[str, bytes], file: str, *, repository: str) -> bytes:
    """A document that must be there.

    Raises:
        MetadataError: it is not.
    """
    if file not in files:
        raise MetadataError(
            f"{repository}/{file}: expected this document, found none; restore the repository"
        )
    return files[file]


def _is_root(name: str) -> bool:
    return name.endswith(".root.json") and name[: -len(".root.json")].isdecimal()
