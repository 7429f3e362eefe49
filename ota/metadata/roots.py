"""Root documents: the first one of a repository, the chain that follows, and what is kept of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import Root

from ota.errors import MetadataError
from ota.metadata import documents

ROOT_DAYS: Final = 3 * 365
_DAY_S: Final = 86_400


def first(
    keys: Mapping[str, Sequence[Key]], *, signers: Sequence[Signer], threshold: int, now: float
) -> bytes:
    """Sign a repository's first root.

    Args:
        keys: the keys of each role but root, by role; a role that is left out has none.
        signers: the root's own signers.
        threshold: how many of them must sign a root.
        now: the time, seconds since the epoch.
    """
    root = Root(version=1, expires=documents.moment(now + ROOT_DAYS * _DAY_S))
    for signer in signers:
        root.add_key(signer.public_key, Root.type)
    root.roles[Root.type].threshold = threshold
    for role, role_keys in keys.items():
        for key in role_keys:
            root.add_key(key, role)
    return documents.write(root, signers)


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
