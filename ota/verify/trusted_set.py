"""One repository's trusted metadata: the TUF specification's detailed client workflow (section 5), pure.

Rules:
- Documents come in the workflow's order: roots, timestamp, snapshot, targets, delegated targets. A
  caller that breaks the order has an error of its own (RuntimeError); documents that do not hold
  raise a `VerificationError`, and the set keeps what it had.
- What was trusted before is offered with `remember_timestamp` and `remember_snapshot`: it serves to
  detect rollback, and is quietly forgotten where the present root no longer vouches for it. That is
  also the recovery from a fast-forward attack (5.3.11).
- A role is trusted in the eyes of one delegator's document; in those of another it is verified again.
"""

from __future__ import annotations

from tuf.api.metadata import MetaFile, Root, Snapshot, Targets, Timestamp

from ota.errors import MetadataError, RollbackRefusedError, VerificationError
from ota.metadata import documents
from ota.verify.roots import RootChain


class TrustedSet(RootChain):
    """What is trusted of one repository; `RootChain` tells the arguments.

    Attributes:
        timestamp, snapshot: the documents of the current state; None where none holds yet.
    """

    def __init__(self, root: bytes, *, now: float | None, name: str = "repository") -> None:
        super().__init__(root, now=now, name=name)
        self._roles: dict[str, tuple[Root | Targets, Targets]] = {}
        self._remembered_snapshot: Snapshot | None = None
        self.timestamp: Timestamp | None = None
        self.snapshot: Snapshot | None = None

    # --- timestamp --------------------------------------------------------------------------------

    def remember_timestamp(self, data: bytes) -> None:
        """Offer the timestamp that was trusted before."""
        self._sealed = True
        if Timestamp.type in self._forgotten or self.timestamp is not None:
            return
        try:
            metadata = documents.read(Timestamp, data, name=self._file(Timestamp.type))
            self._check_signatures(metadata, self.root, Timestamp.type)
        except VerificationError:
            return
        self.timestamp = metadata.signed
        self.files["timestamp.json"] = data

    def update_timestamp(self, data: bytes) -> bool:
        """Take a timestamp; one of the version that is already trusted changes nothing.

        Returns:
            Whether it is newer than the one that was trusted.

        Raises:
            VerificationError: it, or the root that vouches for it, does not hold.
        """
        if self.snapshot is not None:
            raise RuntimeError("the timestamp comes before the snapshot")
        self.settle_root()
        name = self._file(Timestamp.type)
        metadata = documents.read(Timestamp, data, name=name)
        self._check_signatures(metadata, self.root, Timestamp.type)
        new, old = metadata.signed, self.timestamp
        if old is not None:
            self._check_version(name, new.version, at_least=old.version)
            if new.version == old.version:
                return False
            self._check_version(
                f"{name}: snapshot",
                new.snapshot_meta.version,
                at_least=old.snapshot_meta.version,
            )
        self._check_expiry(new, Timestamp.type)
        self.timestamp = new
        self.files["timestamp.json"] = data
        return True

    # --- snapshot ---------------------------------------------------------------------------------

    def remember_snapshot(self, data: bytes) -> bool:
        """Offer the snapshot that was trusted before.

        Returns:
            Whether it is the very one that the timestamp names, so that none need be fetched.
        """
        timestamp = self._settled_timestamp()
        if Snapshot.type in self._forgotten or self.snapshot is not None:
            return False
        try:
            metadata = documents.read(Snapshot, data, name=self._file(Snapshot.type))
            self._check_signatures(metadata, self.root, Snapshot.type)
        except VerificationError:
            return False
        self._remembered_snapshot = metadata.signed
        if metadata.signed.version != timestamp.snapshot_meta.version:
            return False
        try:
            self.update_snapshot(data)
        except VerificationError:
            return False
        return True

    def update_snapshot(self, data: bytes) -> None:
        """Take the snapshot that the timestamp names.

        Raises:
            VerificationError: it, or the timestamp, does not hold.
        """
        timestamp = self._settled_timestamp()
        if self._roles:
            raise RuntimeError("the snapshot comes before targets")
        name = self._file(Snapshot.type)
        metadata = self._named(Snapshot, data, timestamp.snapshot_meta, name)
        self._check_signatures(metadata, self.root, Snapshot.type)
        new = metadata.signed
        self._check_same_version(name, new.version, timestamp.snapshot_meta.version)
        for file, meta in (
            self._remembered_snapshot.meta if self._remembered_snapshot else {}
        ).items():
            found = new.meta.get(file)
            if found is None:
                raise RollbackRefusedError(
                    f"{name}: expected {file} to be listed still, found it gone"
                )
            self._check_version(f"{name}: {file}", found.version, at_least=meta.version)
        self._check_expiry(new, Snapshot.type)
        self.snapshot = new
        self.files["snapshot.json"] = data

    def snapshot_wanted(self) -> MetaFile:
        """The snapshot that the timestamp names.

        Raises:
            VerificationError: the timestamp has expired.
        """
        return self._settled_timestamp().snapshot_meta

    def _settled_timestamp(self) -> Timestamp:
        if self.timestamp is None:
            raise RuntimeError("the snapshot comes after the timestamp")
        self._check_expiry(self.root, Root.type)
        self._check_expiry(self.timestamp, Timestamp.type)
        return self.timestamp

    # --- targets ----------------------------------------------------------------------------------

    def update_targets(
        self, data: bytes, role: str = Targets.type, delegator: str = Root.type
    ) -> Targets:
        """Take the targets of `role` as `delegator` delegates them and the snapshot names them.

        Raises:
            VerificationError: they do not hold.
        """
        meta = self.targets_wanted(role)
        by = self._delegator(delegator)
        name = self._file(role)
        metadata = self._named(Targets, data, meta, name)
        self._check_signatures(metadata, by, role)
        self._check_same_version(name, metadata.signed.version, meta.version)
        self._check_expiry(metadata.signed, role)
        self._roles[role] = (by, metadata.signed)
        self.files[f"{role}.json"] = data
        return metadata.signed

    def targets(self, role: str, delegator: str = Root.type) -> Targets | None:
        """The targets of `role` where they hold in the eyes of `delegator`."""
        known = self._roles.get(role)
        return known[1] if known is not None and known[0] is self._delegator(delegator) else None

    def targets_wanted(self, role: str) -> MetaFile:
        """The document of `role` that the snapshot names.

        Raises:
            VerificationError: the snapshot does not name the role.
        """
        if self.snapshot is None:
            raise RuntimeError("targets come after the snapshot")
        meta = self.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise MetadataError(
                f"{self._file(Snapshot.type)}: expected it to list {role}.json, found it missing; "
                f"the repository must be repaired"
            )
        return meta

    def _delegator(self, role: str) -> Root | Targets:
        if role == Root.type:
            return self.root
        if role not in self._roles:
            raise RuntimeError(f"the targets of {role!r} come first")
        return self._roles[role][1]
