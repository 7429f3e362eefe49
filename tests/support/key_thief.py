"""Keys that are stolen from a cloud, and what a thief signs with them and shows to devices."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Signer
from support.clouds import Cloud, Endpoint
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from cloud.services import key_changes, trust
from cloud.services.key_changes import NewKey
from fleet.registry.repositories import Trust
from fleet.wire.messages import Desired
from ota.metadata import documents
from ota.metadata.release import ASSIGNMENT_FIELD
from ota.signing import ceremony, key_files
from ota.verify import trust as device_trust

MALWARE = b"malware"
LATER = 2**40
"""A version and a counter that no honest repository comes to."""


@dataclass
class Holders:
    """People who hold keys of the roots, and have held the ceremony."""

    cloud: Cloud
    keys: list[CryptoSigner] = field(
        default_factory=lambda: [CryptoSigner(Ed25519PrivateKey.generate()) for _ in range(3)]
    )

    def ceremony(
        self, *, threshold: int = 2, repositories: Sequence[str] = ("image", "director")
    ) -> None:
        """Two of three keys for both roots, in place of those that the cloud was made with."""
        request = key_changes.ceremony_request(
            self.cloud.context, [k.public_key for k in self.keys],
            threshold=threshold, repositories=repositories,
        )  # fmt: skip
        self.publish(request, *self.keys[:threshold])

    def rotate(self, *roles: str, by: Sequence[Signer] = ()) -> None:
        """New keys for roles that a root names."""
        request = key_changes.rotation_request(self.cloud.context, dict.fromkeys(roles, NewKey()))
        self.publish(request, *(by or self.keys[:2]))

    def publish(self, request: ceremony.Request, *by: Signer) -> None:
        """Sign a request, take it through a file's bytes, and publish it a minute later."""
        for signer in by:
            request = ceremony.sign(request, signer)[0]
        self.cloud.clock.now += 60
        key_changes.publish(
            self.cloud.context, ceremony.parse(ceremony.to_bytes(request)), by="host:test"
        )


def stolen(cloud: Cloud, file: str) -> CryptoSigner:
    """A copy of a key of the cloud's, as it is now."""
    return CryptoSigner(key_files.read(Path(cloud.folder) / file))


class Thief:
    """Stands between a cloud and a device, and signs with what it has stolen.

    Args:
        desired: what the cloud would send, which the thief changes.
    """

    def __init__(self, desired: Desired) -> None:
        self.image: dict[str, bytes] = dict(desired.image)
        self.director: dict[str, bytes] = dict(desired.director)

    def edit(
        self, repository: str, file: str, change: Callable[[Any], object], *by: Signer
    ) -> None:
        """Change a document and sign it with stolen keys; without any, its signatures no longer hold."""
        files = self.image if repository == "image" else self.director
        metadata = Metadata.from_bytes(files[file])
        change(metadata.signed)
        if by:
            files[file] = documents.write(metadata.signed, list(by))
        else:
            files[file] = metadata.to_bytes()

    def assign(self, path: str, data: bytes, *by: Signer) -> None:
        """Assign other bytes."""

        def change(targets: Any) -> None:
            targets.version = targets.unrecognized_fields[ASSIGNMENT_FIELD]["counter"] = LATER
            target = targets.targets[path]
            target.length, target.hashes = len(data), {"sha256": hashlib.sha256(data).hexdigest()}

        self.edit("director", "targets.json", change, *by)

    def release(self, path: str, data: bytes, *by: Signer) -> None:
        """Release other bytes."""

        def change(targets: Any) -> None:
            targets.version += 1
            old = targets.targets[path]
            targets.targets[path] = TargetFile(
                len(data),
                {"sha256": hashlib.sha256(data).hexdigest()},
                path,
                old.unrecognized_fields,
            )

        self.edit("image", f"{path.split('/', maxsplit=1)[0]}.json", change, *by)

    def name(self, signer_of_snapshot: Signer, signer_of_timestamp: Signer) -> None:
        """Let a snapshot and a timestamp name the documents as they are now."""

        def in_snapshot(snapshot: Any) -> None:
            snapshot.version += 1
            for file in snapshot.meta:
                if file in self.image:
                    data = self.image[file]
                    version = documents.version_of(data, name=file)
                    snapshot.meta[file] = MetaFile.from_data(version, data, ["sha256"])

        self.edit("image", "snapshot.json", in_snapshot, signer_of_snapshot)
        data = self.image["snapshot.json"]

        def in_timestamp(timestamp: Any) -> None:
            timestamp.version += 1
            version = documents.version_of(data, name="snapshot.json")
            timestamp.snapshot_meta = MetaFile.from_data(version, data, ["sha256"])

        self.edit("image", "timestamp.json", in_timestamp, signer_of_timestamp)

    def root(self, repository: str, change: Callable[[Any], object], *by: Signer) -> None:
        """The next root, as the thief would have it."""
        files = self.image if repository == "image" else self.director
        version = max(int(name.split(".")[0]) for name in files if name.endswith(".root.json"))
        root = Metadata.from_bytes(files[f"{version}.root.json"]).signed
        root.version = version + 1
        change(root)
        files[f"{version + 1}.root.json"] = documents.write(root, list(by))

    def shows(self, endpoint: Endpoint) -> device_trust.Acceptance:
        """What the device makes of it; it keeps nothing of it."""
        return device_trust.accept(
            endpoint.store, image=self.image, director=self.director, device=endpoint.name,
            tenant="default", now=endpoint.cloud.clock.now,
        )  # fmt: skip


def between(cloud: Cloud, endpoint: Endpoint) -> Thief:
    """A thief between the two, now; it has every root that there is."""
    desired = trust.desired_for(cloud.context, endpoint.name)
    with cloud.context.read() as session:
        files = {n: Trust(session).files(n) for n in ("image", "director")}
    made = Thief(desired)
    made.image |= {n: d for n, d in files["image"].items() if n.endswith(".root.json")}
    made.director |= {n: d for n, d in files["director"].items() if n.endswith(".root.json")}
    return made
