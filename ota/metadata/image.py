"""The image repository, from the side that signs it: which artifacts exist, and who released them.

Rules:
- Pure over its signers: documents in, documents out; where they are kept is the caller's business.
- Roles: root (offline) vouches for targets, snapshot and timestamp; targets delegates each model's
  paths to a role of the model's name, whose releases are signed by that model's release key.
- Versions follow `documents.next_version`, so that a restored backup does not lock devices out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from securesystemslib.signer import Key, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from ota.errors import ReleaseError
from ota.metadata import documents, roots
from ota.metadata.release import (
    ReleaseFile,
    check_model,
    parse_path,
    release_order,
    target_file,
)

DAY_S: Final = 86_400
TARGETS_DAYS: Final = 365
SNAPSHOT_DAYS: Final = 30
TIMESTAMP_DAYS: Final = 7
_NAME = "image"


@dataclass(frozen=True, kw_only=True)
class ImageSigners:
    """Who signs the image repository.

    Attributes:
        targets, snapshot, timestamp: the online signers.
        root: the offline signers; only `ImageRepository.create` needs them.
        root_threshold: how many of `root` must sign a root.
    """

    targets: Signer
    snapshot: Signer
    timestamp: Signer
    root: Sequence[Signer] = field(default=())
    root_threshold: int = 1


class ImageRepository:
    """The documents of an image repository and the operations that change them.

    Args:
        files: its documents by file name, as `files` gave them.
        signers: who signs the changes; None for a reader, who makes none.

    Attributes:
        files: every document by file name: ``N.root.json``, ``timestamp.json``, ``snapshot.json``,
            ``targets.json`` and ``MODEL.json`` for each model.

    Raises:
        VerificationError: a document is missing or malformed.
    """

    def __init__(self, files: Mapping[str, bytes], signers: ImageSigners | None = None) -> None:
        self.files: dict[str, bytes] = dict(files)
        self._given = signers
        self.root_version = roots.latest(self.files, name=_NAME)[0]
        roots.need(self.files, "targets.json", repository=_NAME)

    @classmethod
    def create(cls, signers: ImageSigners, now: float) -> ImageRepository:
        """A new, empty repository."""
        root = roots.first(
            {
                Targets.type: [signers.targets.public_key],
                Snapshot.type: [signers.snapshot.public_key],
                Timestamp.type: [signers.timestamp.public_key],
            },
            signers=signers.root,
            threshold=signers.root_threshold,
            now=now,
            repository=_NAME,
        )
        empty = _no_targets(now)
        empty.delegations = Delegations(keys={}, roles={})
        files = {"1.root.json": root, "targets.json": documents.write(empty, [signers.targets])}
        repository = cls(files, signers)
        repository._publish({}, now)
        return repository

    @property
    def _signers(self) -> ImageSigners:
        if self._given is None:
            raise RuntimeError("a reader of the repository changes nothing")
        return self._given

    @property
    def models(self) -> list[str]:
        """The models that have a role, sorted."""
        return sorted(self._roles())

    def check_has(self, model: str) -> None:
        """Refuse a model that has no role. Raises ReleaseError."""
        if model not in self._roles():
            raise ReleaseError(
                f"expected a model of the repository, found {model!r}; it has "
                f"{', '.join(self.models) or 'none'}"
            )

    def add_model(self, model: str, release_signer: Signer, now: float) -> dict[str, bytes]:
        """Delegate a model's paths to its release key.

        Returns:
            The documents that changed.

        Raises:
            ReleaseError: the name is not legal, or the model is there already.
        """
        check_model(model)
        if model in self._roles():
            raise ReleaseError(
                f"expected a new model, found {model!r} in the repository already; release it instead"
            )
        key = release_signer.public_key
        top = self._targets("targets.json")
        delegations = top.delegations or Delegations(keys={}, roles={})
        delegations.keys[key.keyid] = key
        roles = dict(delegations.roles or {})
        roles[model] = DelegatedRole(
            model, [key.keyid], threshold=1, terminating=True, paths=[f"{model}/*/*"]
        )
        delegations.roles = roles
        top.delegations = delegations
        changed = {
            "targets.json": self._sign_targets(top, self._signers.targets, now),
            f"{model}.json": self._sign_targets(_no_targets(now), release_signer, now),
        }
        return self._publish(changed, now)

    def add_release(
        self,
        model: str,
        release: str,
        files: Sequence[ReleaseFile],
        release_signer: Signer,
        now: float,
        *,
        security_floor: str = "",
    ) -> dict[str, bytes]:
        """Sign a release's variants into the repository.

        Args:
            model: a model that has a role.
            release: the release's version.
            files: its variants.
            release_signer: the model's release key.
            now: the time, seconds since the epoch.
            security_floor: devices may never go back below this release; empty keeps the highest
                floor that was signed before.

        Returns:
            The documents that changed.

        Raises:
            ReleaseError: no such model, a name that is not legal, a variant that is there already
                with other bytes, or a floor above the release itself.
        """
        if model not in self._roles():
            raise ReleaseError(
                f"expected a model of the repository ({', '.join(self.models) or 'none yet'}), "
                f"found {model!r}; push it first"
            )
        targets = self._targets(f"{model}.json")
        floor = max([*_floors(targets), security_floor], key=release_order)
        if release_order(release) < release_order(floor):
            raise ReleaseError(
                f"expected a release of {model!r} at or above its security floor {floor!r}, "
                f"found {release!r}; number it higher"
            )
        for file in files:
            target = target_file(model, release, file, floor)
            known = targets.targets.get(target.path)
            if known is not None and known.hashes != target.hashes:
                raise ReleaseError(
                    f"{target.path}: is released already with other bytes; release a new version"
                )
            targets.targets[target.path] = target
        return self._publish(
            {f"{model}.json": self._sign_targets(targets, release_signer, now)}, now
        )

    def withdraw_candidate(self, path: str, release_signer: Signer, now: float) -> dict[str, bytes]:
        """Take a candidate's target back; what is not there any more changes nothing.

        Args:
            path: the target's path.
            release_signer: the model's release key.
            now: the time, seconds since the epoch.

        Returns:
            The documents that changed.

        Raises:
            ReleaseError: it is released; that is never taken back.
        """
        file = f"{parse_path(path).model}.json"
        target = self.target(path)
        if target is None:
            return {}
        if not (target.custom or {}).get("candidate_for"):
            raise ReleaseError(
                f"expected the path of a candidate, found {path}, which is released; it stays"
            )
        targets = self._targets(file)
        del targets.targets[path]
        return self._publish({file: self._sign_targets(targets, release_signer, now)}, now)

    def replace_release_key(
        self, model: str, release_signer: Signer, now: float
    ) -> dict[str, bytes]:
        """Delegate a model to another release key, and sign its releases with that.

        Returns:
            The documents that changed.

        Raises:
            ReleaseError: no such model.
        """
        self.check_has(model)
        top = self._targets("targets.json")
        if top.delegations is None or top.delegations.roles is None:
            raise AssertionError("a model that has a role is delegated")
        key = release_signer.public_key
        for keyid in list(top.delegations.roles[model].keyids):
            top.revoke_key(keyid, model)
        top.add_key(key, model)
        changed = {
            "targets.json": self._sign_targets(top, self._signers.targets, now),
            f"{model}.json": self._sign_targets(
                self._targets(f"{model}.json"), release_signer, now
            ),
        }
        return self._publish(changed, now)

    def sign_anew(self, now: float) -> dict[str, bytes]:
        """Sign the top-level targets, the snapshot and the timestamp with the keys that are in force.

        Returns:
            The documents that changed.
        """
        top = self._sign_targets(self._targets("targets.json"), self._signers.targets, now)
        return self._publish({"targets.json": top}, now)

    def ageing(self, now: float) -> list[str]:
        """The models whose role is past half of its life; a device could accept none of them once it has ended."""
        return [model for model in self.models if self._ages(f"{model}.json", now)]

    def refresh(
        self, now: float, release_signers: Mapping[str, Signer] | None = None
    ) -> dict[str, bytes]:
        """Sign the snapshot and the timestamp again, so that they do not expire, and the targets that age.

        Args:
            now: the time, seconds since the epoch.
            release_signers: release keys by model; the roles of these models are signed again.

        Returns:
            The documents that changed.
        """
        changed = {
            f"{model}.json": self._sign_targets(self._targets(f"{model}.json"), signer, now)
            for model, signer in (release_signers or {}).items()
        }
        if self._ages("targets.json", now):
            top = self._targets("targets.json")
            changed["targets.json"] = self._sign_targets(top, self._signers.targets, now)
        return self._publish(changed, now)

    def _ages(self, file: str, now: float) -> bool:
        expires = self._targets(file).expires.timestamp()
        return now > expires - TARGETS_DAYS * DAY_S / 2

    def for_device(self, models: Sequence[str], *, root_version: int = 0) -> dict[str, bytes]:
        """The documents that a device needs.

        Args:
            models: the models that are assigned to it.
            root_version: the version of the root that it trusts; newer ones are included.
        """
        wanted = ["timestamp.json", "snapshot.json", "targets.json", *(f"{m}.json" for m in models)]
        chain = range(root_version + 1, self.root_version + 1)
        return {name: self.files[name] for name in (*(f"{n}.root.json" for n in chain), *wanted)}

    def target(self, path: str) -> TargetFile | None:
        """A target of some model's role, or None."""
        file = f"{path.split('/', 1)[0]}.json"
        return self._targets(file).targets.get(path) if file in self.files else None

    def release_keys(self, model: str) -> list[Key]:
        """The public keys that may sign releases of `model`."""
        delegations = self._targets("targets.json").delegations
        if delegations is None or model not in (delegations.roles or {}):
            return []
        return [delegations.keys[keyid] for keyid in (delegations.roles or {})[model].keyids]

    def _roles(self) -> dict[str, DelegatedRole]:
        delegations = self._targets("targets.json").delegations
        return dict(delegations.roles or {}) if delegations is not None else {}

    def _targets(self, file: str) -> Targets:
        data = roots.need(self.files, file, repository=_NAME)
        return documents.read(Targets, data, name=f"{_NAME}/{file}").signed

    def _sign_targets(self, targets: Targets, signer: Signer, now: float) -> bytes:
        targets.version = documents.next_version(targets.version, now)
        targets.expires = documents.moment(now + TARGETS_DAYS * DAY_S)
        return documents.write(targets, [signer])

    def _publish(self, changed: Mapping[str, bytes], now: float) -> dict[str, bytes]:
        """Take the changed targets in and sign a snapshot and a timestamp over them."""
        self.files.update(changed)
        listed = {"targets.json", *(f"{model}.json" for model in self._roles())}
        meta = {name: self._meta(self.files[name]) for name in sorted(listed)}
        version = self._next_version("snapshot.json", now)
        snapshot = documents.write(
            Snapshot(
                version=version, expires=documents.moment(now + SNAPSHOT_DAYS * DAY_S), meta=meta
            ),
            [self._signers.snapshot],
        )
        timestamp = documents.write(
            Timestamp(
                version=self._next_version("timestamp.json", now),
                expires=documents.moment(now + TIMESTAMP_DAYS * DAY_S),
                snapshot_meta=MetaFile.from_data(version, snapshot, ["sha256"]),
            ),
            [self._signers.timestamp],
        )
        signed = {**changed, "snapshot.json": snapshot, "timestamp.json": timestamp}
        self.files.update(signed)
        return signed

    def _next_version(self, file: str, now: float) -> int:
        data = self.files.get(file)
        last = 0 if data is None else documents.version_of(data, name=f"{_NAME}/{file}")
        return documents.next_version(last, now)

    @staticmethod
    def _meta(data: bytes) -> MetaFile:
        return MetaFile.from_data(documents.version_of(data, name=_NAME), data, ["sha256"])


def _floors(targets: Targets) -> list[str]:
    return [str(target.custom["security_floor"]) for target in targets.targets.values()]


def _no_targets(now: float) -> Targets:
    return Targets(
        version=documents.next_version(0, now),
        expires=documents.moment(now + TARGETS_DAYS * DAY_S),
    )
