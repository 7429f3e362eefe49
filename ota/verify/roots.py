"""A repository's chain of roots, and the checks that every document goes through.

Rules:
- Expiry is judged against `now`; with ``now=None`` it is not judged at all: that is re-verification
  of what was accepted before.
- What keys that are gone could have signed with far too high versions is forgotten when a new root
  replaces a threshold of them (recovery from a fast-forward attack, TUF specification 5.3.11).
- A threshold counts keys, not key ids: a key that stands under two ids counts once.
- A root that says which repository it is of serves that one alone, and so do all that follow it: its holders
  may sign for another one with the same keys.
- A document that another names by digests must be named by at least one that is not broken.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.signer import Key
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from ota.errors import (
    ExpiredError,
    MetadataError,
    MismatchError,
    RollbackRefusedError,
    ThresholdError,
)
from ota.metadata import documents
from ota.metadata.roots import REPOSITORY_FIELD
from ota.verify import digests


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
        self._check_repository(metadata.signed)
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
        self._check_repository(new, must="" if _repository(self.root) is None else self._name)
        self._forget_replaced(new)
        self.root = new
        self.files["root.json"] = data

    def settle_root(self) -> None:
        """End the chain of roots; the last one must not have expired (5.3.10).

        Raises:
            ExpiredError: it has.
        """
        self._sealed = True
        self._check_expiry(self.root, Root.type)

    @property
    def forgotten_files(self) -> set[str]:
        """Names of the documents that must not be kept, because the keys that vouched for them are gone."""
        return {f"{role}.json" for role in self._forgotten}

    def _forget_replaced(self, new: Root) -> None:
        """Forget what a threshold of keys that are gone could have fast-forwarded (5.3.11)."""
        for role, tainted in (
            (Timestamp.type, {Timestamp.type, Snapshot.type}),
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
        digests.check(meta, data, name=name)
        return documents.read(kind, data, name=name)

    def _check_signatures(
        self, metadata: Metadata[documents.T], delegator: Root | Targets, role: str
    ) -> None:
        try:
            result = delegator.get_verification_result(
                role, documents.canonical(metadata.signed), metadata.signatures
            )
        except (ValueError, RecursionError) as error:
            raise MetadataError(f"{self._file(role)}: {error}; it cannot be verified") from None
        signed = result.signed.values()
        good = len({_identity(key) for key in signed}) if result.threshold > 1 else len(signed)
        if good < result.threshold:
            raise ThresholdError(
                f"{self._file(role)}: expected signatures of {result.threshold} of its role's keys, "
                f"found {good}; it must be signed again"
            )

    def _check_repository(self, root: Root, *, must: str = "") -> None:
        found = _repository(root)
        if found is None and not must:
            return
        if found != self._name:
            raise MismatchError(
                f"{self._file(Root.type)}: expected a root of {self._name!r}, found one of {found!r}; "
                f"whoever serves the repositories has mixed them up"
            )

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


def _repository(root: Root) -> object:
    return root.unrecognized_fields.get(REPOSITORY_FIELD)


def _identity(key: Key) -> bytes:
    """What tells a key from another, however it is spelt and under whatever id or scheme it stands."""
    public = str(key.keyval.get("public", key.keyval))
    try:
        loaded = load_pem_public_key(public.encode())
        return loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return public.lower().encode(errors="surrogatepass")
