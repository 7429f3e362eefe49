"""The TUF client workflow (specification, section 5) without I/O: it asks for files and is fed bytes.

Rules:
- `Client.refresh` and `Client.find` are generators. They yield an `Ask` and are sent the file's bytes, or
  None where the repository has no such file; `feed` drives them. An HTTP client, a message and a folder
  are three ways to answer, and what is verified does not depend on which.
- Whoever answers reads at most `Ask.limit_bytes`; what is longer is refused here all the same.
- `Client.files` is at each moment what may be kept: each document as it was received, from the moment in
  which it held. After an error the next client starts from there.
- A client serves one refresh: the time and the documents that it starts from do not change under it
  (5.2, the fixed update start time).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Final, NamedTuple, TypeVar

from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from ota.errors import MetadataError, VerificationError
from ota.metadata import documents
from ota.verify.delegations import Search
from ota.verify.roots import RootChain
from ota.verify.trusted_set import TrustedSet

MAX_ROOTS: Final = 256
"""Roots that one refresh follows at most (5.3.3); the next refresh goes on from there."""

MAX_ROLES: Final = 32
"""Roles that one search visits at most (5.6.7)."""


class Ask(NamedTuple):
    """A file that is needed from the repository.

    Attributes:
        role: the role that signs it.
        version: which version of it; None where the repository has one under a fixed name.
        limit_bytes: it must not be longer.
    """

    role: str
    version: int | None
    limit_bytes: int

    @property
    def name(self) -> str:
        """Its name among the trusted documents, for instance ``snapshot.json``."""
        return f"{self.role}.json"


class Found(NamedTuple):
    """A target, and the role that speaks for it."""

    file: TargetFile
    role: str
    targets: Targets


R = TypeVar("R")
Steps = Generator[Ask, "bytes | None", R]
Answer = Callable[[Ask], "bytes | None"]


def feed(steps: Steps[R], answer: Answer) -> R:
    """Run `steps` to their end and return what they return; what `answer` raises ends them too."""
    try:
        asked = next(steps)
        while True:
            asked = steps.send(answer(asked))
    except StopIteration as done:
        result: R = done.value
        return result


def follow_roots(chain: RootChain) -> Steps[None]:
    """Take each newer root in turn, until there is none (5.3).

    Raises:
        VerificationError: a root does not hold.
    """
    for _ in range(MAX_ROOTS):
        data = yield Ask(Root.type, chain.root.version + 1, documents.MAX_BYTES[Root.type])
        if data is None:
            return
        chain.update_root(data)


class Client:
    """What is trusted of one repository, and what has to be asked for to bring it up to date.

    Args:
        files: the documents that were kept, by ``ROLE.json``; at least ``root.json``.
        now: trusted time, seconds since the epoch; None: expiry is not judged.
        name: the repository's name, for messages.

    Raises:
        VerificationError: there is no root, or it is not signed by itself.
    """

    def __init__(self, files: Mapping[str, bytes], *, now: float | None, name: str) -> None:
        self._name = name
        self._kept = dict(files)
        self._set = TrustedSet(self._need(files.get("root.json"), "root.json"), now=now, name=name)

    @property
    def held(self) -> dict[str, bytes]:
        """The documents that hold together now, by ``ROLE.json``."""
        return dict(self._set.files)

    @property
    def files(self) -> dict[str, bytes]:
        """What may be kept: those that hold, and older ones that serve against rollback."""
        older = {k: v for k, v in self._kept.items() if k not in self._set.forgotten_files}
        return {**older, **self._set.files}

    @property
    def consistent_snapshot(self) -> bool:
        """Whether file names in the repository begin with a version or a digest (6.2)."""
        return bool(self._set.root.consistent_snapshot)

    def refresh(self) -> Steps[None]:
        """Bring root, timestamp, snapshot and top-level targets up to date, in this order.

        Raises:
            VerificationError: a document is missing or does not hold.
        """
        yield from follow_roots(self._set)
        self._set.settle_root()
        if "timestamp.json" in self._kept:
            self._set.remember_timestamp(self._kept["timestamp.json"])
        ask = Ask(Timestamp.type, None, documents.MAX_BYTES[Timestamp.type])
        self._set.update_timestamp(self._need((yield ask), ask.name))
        yield from self._refresh_snapshot()
        yield from self._targets_of(Targets.type, Root.type)

    def find(self, path: str) -> Steps[Found | None]:
        """Search the delegations for a target: depth first, in the delegators' order (5.6.7).

        A role is visited once in a search. Each search verifies a role against the delegator through
        which this search came to it, also when the role's document is held already.

        Args:
            path: the target's path.

        Raises:
            VerificationError: a role on the way is missing or does not hold, or there are too many.
        """
        search = Search(path)
        to_visit = [(Targets.type, Root.type)]
        visited: set[str] = set()
        while to_visit:
            role, delegator = to_visit.pop()
            if role in visited:
                continue
            if len(visited) == MAX_ROLES:
                raise MetadataError(
                    f"{self._name}: expected {path!r} within {MAX_ROLES} delegated roles, found more; "
                    f"the repository must delegate it more directly"
                )
            visited.add(role)
            targets = yield from self._targets_of(role, delegator)
            if path in targets.targets:
                return Found(targets.targets[path], role, targets)
            children, terminated = search.children(targets)
            if terminated:
                to_visit.clear()
            to_visit.extend((child, role) for child in reversed(children))
        return None

    def _refresh_snapshot(self) -> Steps[None]:
        kept = self._kept.get("snapshot.json")
        if kept is not None and self._set.remember_snapshot(kept):
            return
        ask = self._ask(Snapshot.type, self._set.snapshot_wanted(), Snapshot.type)
        self._set.update_snapshot(self._need((yield ask), ask.name))

    def _targets_of(self, role: str, delegator: str) -> Steps[Targets]:
        """The role's targets in the eyes of the delegator: held, kept, or asked for."""
        held = self._set.targets(role, delegator)
        if held is not None:
            return held
        kept = self.files.get(f"{role}.json")
        if kept is not None:
            try:
                return self._set.update_targets(kept, role, delegator)
            except VerificationError:
                pass  # an older version, or one that this delegator does not vouch for: ask
        ask = self._ask(role, self._set.targets_wanted(role), Targets.type)
        return self._set.update_targets(self._need((yield ask), ask.name), role, delegator)

    def _ask(self, role: str, wanted: MetaFile, kind: str) -> Ask:
        limit = documents.MAX_BYTES[kind]
        if wanted.length is not None:
            limit = min(limit, wanted.length)
        return Ask(role, wanted.version if self.consistent_snapshot else None, limit)

    def _need(self, data: bytes | None, file: str) -> bytes:
        if data is None:
            raise MetadataError(
                f"{self._name}/{file}: expected this document, found none; "
                f"whoever serves the repository must give the whole of it"
            )
        return data
