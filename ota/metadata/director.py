"""The director, from the side that signs it: what each device should run.

Rules:
- Pure over its signers. The director keeps no assignment: the caller counts per device.
- An assignment is a TUF targets document of its own per device, bound to device, tenant and counter;
  it delegates the role ``messages`` to the key that signs messages to devices.
- A device refuses a lower counter, and other targets under the same one: count on at each change.
  The counter is the document's version too, so that a clock that was once ahead locks nobody out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from securesystemslib.signer import Key, Signer
from tuf.api.metadata import DelegatedRole, Delegations, TargetFile, Targets

from fleet.wire.topics import check_id
from ota.errors import ReleaseError
from ota.metadata import documents, roots
from ota.metadata.release import (
    ASSIGNMENT_FIELD,
    MESSAGES_ROLE,
    Assignment,
    AssignmentCustom,
    Way,
    parse_path,
)
from ota.transfer.terms import Terms

ASSIGNMENT_DAYS: Final = 7
_DAY_S: Final = 86_400


@dataclass(frozen=True, kw_only=True)
class DirectorSigners:
    """Who signs for the director.

    Attributes:
        targets: the online signer of assignments.
        messages: public keys of those who sign messages to devices.
        root: the offline signers; only `Director.create` needs them.
        root_threshold: how many of `root` must sign a root.
    """

    targets: Signer
    messages: Sequence[Key]
    root: Sequence[Signer] = field(default=())
    root_threshold: int = 1


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """One target of an assignment; path, digest and length as in the image repository.

    Attributes:
        activate_before: Unix time after which it must no longer be activated; 0 means never.
        transfer: on what terms the device fetches it.
        ways: ways of sending less, best first.
    """

    path: str
    sha256: str
    length_bytes: int
    activate_before: float = 0.0
    transfer: Terms = field(default_factory=Terms)
    ways: Sequence[Way] = ()


class Director:
    """The director's roots and its signing of assignments.

    Args:
        files: its roots by file name, ``N.root.json``.
        signers: who signs; None for a reader, who assigns nothing.

    Raises:
        VerificationError: there is no root, or it is malformed.
    """

    def __init__(self, files: Mapping[str, bytes], signers: DirectorSigners | None = None) -> None:
        self.files: dict[str, bytes] = dict(files)
        self._given = signers
        self.root_version = roots.latest(self.files, name="director")[0]

    @classmethod
    def create(cls, signers: DirectorSigners, now: float) -> Director:
        """A new director."""
        root = roots.first(
            {Targets.type: [signers.targets.public_key]},
            signers=signers.root,
            threshold=signers.root_threshold,
            now=now,
            repository="director",
        )
        return cls({"1.root.json": root}, signers)

    @property
    def _signers(self) -> DirectorSigners:
        if self._given is None:
            raise RuntimeError("a reader of the director assigns nothing")
        return self._given

    def assign(
        self, device: str, tenant: str, counter: int, targets: Sequence[Assigned], now: float
    ) -> bytes:
        """Sign a device's assignment.

        Args:
            device: id of the device.
            tenant: id of its tenant.
            counter: grows whenever the targets change.
            targets: what the device should run, one target per model; empty: nothing.
            now: the time, seconds since the epoch.

        Returns:
            The director's ``targets.json`` for this device.

        Raises:
            WireError: an id that is not legal.
            ReleaseError: two targets of one model.
        """
        check_id(device, what="device")
        check_id(tenant, what="tenant")
        models = [parse_path(target.path).model for target in targets]
        if len(set(models)) != len(models):
            raise ReleaseError(f"expected one target per model, found {sorted(models)}; assign one")
        document = Targets(
            version=max(1, counter),
            expires=documents.moment(now + ASSIGNMENT_DAYS * _DAY_S),
            targets={target.path: _target_file(target) for target in targets},
            delegations=self._delegations(),
            unrecognized_fields={
                ASSIGNMENT_FIELD: msgspec.to_builtins(
                    Assignment(device=device, tenant=tenant, counter=counter)
                )
            },
        )
        return documents.write(document, [self._signers.targets])

    def for_device(self, assignment: bytes, *, root_version: int = 0) -> dict[str, bytes]:
        """The documents that a device needs.

        Args:
            assignment: what `assign` returned for it.
            root_version: the version of the root that it trusts; newer ones are included.
        """
        chain = range(root_version + 1, self.root_version + 1)
        return {
            **{f"{n}.root.json": self.files[f"{n}.root.json"] for n in chain},
            "targets.json": assignment,
        }

    def _delegations(self) -> Delegations:
        keys = {key.keyid: key for key in self._signers.messages}
        role = DelegatedRole(
            MESSAGES_ROLE, list(keys), threshold=1, terminating=True, paths=[f"{MESSAGES_ROLE}/*"]
        )
        return Delegations(keys=keys, roles={MESSAGES_ROLE: role})


def _target_file(target: Assigned) -> TargetFile:
    custom = AssignmentCustom(
        activate_before=int(target.activate_before),
        transfer=target.transfer,
        ways=list(target.ways),
    )
    return TargetFile(
        length=target.length_bytes,
        hashes={"sha256": target.sha256},
        path=target.path,
        unrecognized_fields={"custom": msgspec.to_builtins(custom)},
    )
