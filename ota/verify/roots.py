"""A repository's chain of roots, and the checks that every document goes through.

Rules:
- Expiry is judged against `now`; with ``now=None`` it is not judged at all: that is re-verification
  of what was accepted before.
- What keys that are gone could have signed with far too high versions is forgotten when a new root
  replaces a threshold of them (recovery from a fast-forward attack, TUF specification 5.3.11).
"""

from __future__ import annotations

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import SerializationError

from ota.errors import (
    DigestError,
    ExpiredError,
    MetadataError,
    RollbackRefusedError,
    ThresholdError,
)
from ota.metadata import documents


class RootChain:
    """The trusted root of one repository, and what follows from it.

    Args:
        root: a root document that is trusted already; it only has to be signed by itself.
        now: trusted time, seconds since the epoch; None: expiry is not judged.
        name: the repository's name, for messages.

    Attributes:
        root: the trusted root.
        files: the bytes of each document that holds, by file name (``root.json``, ``digits.json``).

    Raises:
        VerificationError: `root` does not hold.
    """

    def __init__(self, root: bytes, *, now: float | None, name: str = "repository") -> None:
        self._now = now
        self._name = name
        self._sealed = False
        self._forgotten: set[str] = set()
        self.files: dict[str, bytes] = {}
        metadata = documents.read(Root, root, name=self._file(Root.type))
        self._check_signatures(metadata, metadata.signed, Root.type)
        self.root = metadata.signed
        self.files["root.json"] = root

    def update_root(self, data: bytes) -> None:
        """Take the next root: one version up, signed by the present root's keys and by its own.

        Raises:
            VerificationError: it does not hold.
        """
        if self._sealed:
            raise RuntimeError("roots come before everything else")
        metadata = documents.read(Root, data, name=self._file(Root.type))
        new = metadata.signed
        self._check_signatures(metadata, self.root, Root.type)
        self._check_signatures(metadata, new, Root.type)
        if new.version != self.root.version + 1:
            raise RollbackRefusedError(
                f"{self._file(Root.type)}: expected version {self.root.version + 1}, "
                f"found {new.version}; the chain of roots must be sent without gaps"
            )
        self._forget_replaced(new)
        self.root = new
        self.files["root.json"] = data

    def _forget_replaced(self, new: Root) -> None:
        """Forget what a threshold of keys that are gone could have fast-forwarded (5.3.11)."""
        for role, tainted in (
            (Timestamp.type, {Timestamp.type}),
            (Snapshot.type, {Timestamp.type, Snapshot.type}),
            (Targets.type, {Snapshot.type, Targets.type}),
        ):
            before, after = self.root.roles[role], new.roles[role]
            if len(set(before.keyids) - set(after.keyids)) >= before.threshold:
                self._forgotten |= tainted

    def _file(self, role: str) -> str:
        return f"{self._name}/{role}.json"

    def _named(
        self, kind: type[documents.T], data: bytes, meta: MetaFile, name: str
    ) -> Metadata[documents.T]:
        """Parse what `meta` names, after its length and digests."""
        try:
            meta.verify_length_and_hashes(data)
        except tuf_errors.LengthOrHashMismatchError as error:
            raise DigestError(f"{name}: {error}; the repository must be repaired") from None
        return documents.read(kind, data, name=name)

    def _check_signatures(
        self, metadata: Metadata[documents.T], delegator: Root | Targets, role: str
    ) -> None:
        try:
            delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
        except tuf_errors.UnsignedMetadataError as error:
            raise ThresholdError(f"{self._file(role)}: {error}; it must be signed again") from None
        except (ValueError, SerializationError) as error:
            raise MetadataError(f"{self._file(role)}: {error}; it cannot be verified") from None

    def _check_expiry(self, signed: Signed, role: str) -> None:
        if self._now is not None and self._now >= signed.expires.timestamp():
            raise ExpiredError(
                f"{self._file(role)}: expired at {signed.expires.isoformat()}, "
                f"the trusted time is {self._now:.0f}; the repository must sign it again"
            )

    @staticmethod
    def _check_version(name: str, found: int, *, at_least: int) -> None:
        if found < at_least:
            raise RollbackRefusedError(
                f"{name}: expected version {at_least} or later, found {found}"
            )

    @staticmethod
    def _check_same_version(name: str, found: int, expected: int) -> None:
        if found != expected:
            raise RollbackRefusedError(f"{name}: expected version {expected}, found {found}")
