"""The order in which a repository's documents are taken out of a message, beside what was stored."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from tuf.api.metadata import Root, Targets

from ota.errors import MetadataError, VerificationError
from ota.verify.director_set import DirectorSet
from ota.verify.roots import RootChain
from ota.verify.trusted_set import Loader, TrustedSet

Files = Mapping[str, bytes]


def update_image(stored: Files, incoming: Files, *, now: float | None) -> TrustedSet:
    """Bring the image repository up to date, down to its top-level targets.

    Raises:
        VerificationError: a document is missing or does not hold.
    """
    trusted = TrustedSet(_need(stored, "root.json", "image"), now=now, name="image")
    _follow_roots(trusted, incoming)
    if "timestamp.json" in stored:
        trusted.remember_timestamp(stored["timestamp.json"])
    if "timestamp.json" in incoming or trusted.timestamp is None:
        trusted.update_timestamp(_need(incoming, "timestamp.json", "image"))
    current = "snapshot.json" in stored and trusted.remember_snapshot(stored["snapshot.json"])
    if not current:
        trusted.update_snapshot(_need(incoming, "snapshot.json", "image"))
    loader(trusted, stored, incoming)(Targets.type, Root.type)
    return trusted


def loader(trusted: TrustedSet, stored: Files, incoming: Files) -> Loader:
    """A function that loads a role's targets: the stored ones while they still hold, else the new ones."""

    def load(role: str, delegator: str) -> None:
        file = f"{role}.json"
        if file in stored:
            try:
                trusted.update_targets(stored[file], role, delegator)
            except VerificationError:
                if file not in incoming:
                    raise
            else:
                return
        trusted.update_targets(_need(incoming, file, "image"), role, delegator)

    return load


def update_director(stored: Files, incoming: Files, *, now: float | None) -> DirectorSet:
    """Bring the director up to date.

    Raises:
        VerificationError: a document is missing or does not hold.
    """
    trusted = DirectorSet(_need(stored, "root.json", "director"), now=now, name="director")
    _follow_roots(trusted, incoming)
    if "targets.json" not in incoming:
        trusted.update_targets(_need(stored, "targets.json", "director"))
        return trusted
    if "targets.json" in stored:
        trusted.remember_targets(stored["targets.json"])
    trusted.update_targets(incoming["targets.json"])
    return trusted


def _follow_roots(trusted: RootChain, incoming: Files) -> None:
    for version in count(trusted.root.version + 1):
        data = incoming.get(f"{version}.root.json")
        if data is None:
            return
        trusted.update_root(data)


def _need(files: Files, name: str, repository: str) -> bytes:
    data = files.get(name)
    if data is None:
        raise MetadataError(
            f"{repository}/{name}: expected this document, found none; "
            f"the cloud must send the whole of what is assigned"
        )
    return data
