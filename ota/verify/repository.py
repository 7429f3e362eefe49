"""The two repositories out of a message: what it lacks is taken from what was stored."""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import Root

from ota.errors import MetadataError
from ota.verify.client import Answer, Ask, Client, Found, feed, follow_roots
from ota.verify.director_set import DirectorSet

Files = Mapping[str, bytes]


class Image:
    """The image repository, brought up to date from a message down to its top-level targets.

    Args:
        stored: the trusted documents, by ``ROLE.json``.
        incoming: the message's: ``N.root.json``, and ``ROLE.json`` for the others.
        now: trusted time, seconds since the epoch; None: expiry is not judged.

    Raises:
        VerificationError: a document is missing or does not hold.
    """

    def __init__(self, stored: Files, incoming: Files, *, now: float | None) -> None:
        self._answer = _answers(stored, incoming)
        self._client = Client(stored, now=now, name="image")
        feed(self._client.refresh(), self._answer)

    @property
    def held(self) -> dict[str, bytes]:
        """The documents that hold together, down to the roles that searches came by."""
        return self._client.held

    def find(self, path: str) -> Found | None:
        """Search the delegations for a target.

        Raises:
            VerificationError: a role on the way is missing or does not hold.
        """
        return feed(self._client.find(path), self._answer)


def update_director(stored: Files, incoming: Files, *, now: float | None) -> DirectorSet:
    """Bring the director up to date.

    Raises:
        VerificationError: a document is missing or does not hold.
    """
    trusted = DirectorSet(_need(stored, "root.json"), now=now, name="director")
    feed(follow_roots(trusted), _answers(stored, incoming))
    if "targets.json" not in incoming:
        trusted.update_targets(_need(stored, "targets.json"))
        return trusted
    if "targets.json" in stored:
        trusted.remember_targets(stored["targets.json"])
    trusted.update_targets(incoming["targets.json"])
    return trusted


def _answers(stored: Files, incoming: Files) -> Answer:
    def answer(ask: Ask) -> bytes | None:
        if ask.role == Root.type:
            return incoming.get(f"{ask.version}.root.json")
        return incoming.get(ask.name, stored.get(ask.name))

    return answer


def _need(files: Files, name: str) -> bytes:
    data = files.get(name)
    if data is None:
        raise MetadataError(
            f"director/{name}: expected this document, found none; "
            f"the cloud must send the whole of what is assigned"
        )
    return data
