"""A small, honest repository and director, signed with keys that are the same in each run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from ota.metadata import documents
from ota.metadata.director import Assigned, Director, DirectorSigners
from ota.metadata.image import ImageRepository, ImageSigners
from ota.metadata.release import ReleaseFile
from ota.verify import trust
from ota.verify.trust import Acceptance, TrustStore

NOW = 1_800_000_000.0
DAY = 86_400


def signer(name: str) -> CryptoSigner:
    seed = hashlib.sha256(name.encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


def artifact(model: str, release: str, target: str = "litert-cpu") -> ReleaseFile:
    digest = hashlib.sha256(f"{model}/{release}/{target}".encode()).hexdigest()
    return ReleaseFile(
        target=target,
        sha256=digest,
        length_bytes=123_456,
        blocks_sha256=hashlib.sha256(digest.encode()).hexdigest(),
        blocks_length_bytes=1_000,
        block_size_bytes=65_536,
        runtime="litert",
        hardware_classes=["cpu-arm64", "cpu-x86-64"],
    )


@dataclass
class House:
    """Both repositories, and one device's view of them."""

    image: ImageRepository
    director: Director
    store: TrustStore
    now: float = NOW
    counter: int = 0
    release_signers: dict[str, CryptoSigner] = field(default_factory=dict)

    def release(self, model: str, release: str, *, floor: str = "", target: str = "litert-cpu"):
        by = self.release_signers.setdefault(model, signer(f"release {model}"))
        if model not in self.image.models:
            self.image.add_model(model, by, self.now)
        self.image.add_release(
            model, release, [artifact(model, release, target)], by, self.now, security_floor=floor
        )

    def assigned(self, *paths: str, activate_before: float = 0.0) -> list[Assigned]:
        out = []
        for path in paths:
            target = self.image.target(path)
            assert target is not None
            out.append(
                Assigned(
                    path=path,
                    sha256=target.hashes["sha256"],
                    length_bytes=target.length,
                    activate_before=activate_before,
                )
            )
        return out

    def assign(self, *paths: str, device: str = "d1", tenant: str = "t1") -> bytes:
        self.counter += 1
        return self.director.assign(device, tenant, self.counter, self.assigned(*paths), self.now)

    def documents(self, assignment: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
        return (
            self.image.for_device(self.image.models),
            self.director.for_device(assignment),
        )

    def edit(
        self, file: str, change: Callable[[Any], object], *by: CryptoSigner, publish: bool = True
    ) -> None:
        """Change a document of the image repository as someone with its keys could."""
        signed = Metadata.from_bytes(self.image.files[file]).signed
        change(signed)
        model = file.removesuffix(".json")
        known = {
            "timestamp": signer("image timestamp"),
            "snapshot": signer("image snapshot"),
            "targets": signer("image targets"),
        }
        default = known.get(model) or self.release_signers[model]
        self.image.files[file] = documents.write(signed, by or [default])
        if publish:
            self.image.refresh(self.now)

    def new_root(self, repository: str, change: Callable[[Any], object], *by: CryptoSigner) -> None:
        """Publish the next root of ``image`` or ``director``, signed by the present root key or `by`."""
        of: Any = self.image if repository == "image" else self.director
        version = of.root_version
        signed = Metadata.from_bytes(of.files[f"{version}.root.json"]).signed
        signed.version = version + 1
        change(signed)
        of.root_version = version + 1
        of.files[f"{version + 1}.root.json"] = documents.write(
            signed, by or [signer(f"{repository} root")]
        )

    def accept(self, assignment: bytes, *, device: str = "d1", tenant: str = "t1") -> Acceptance:
        image, director = self.documents(assignment)
        accepted = trust.accept(
            self.store, image=image, director=director, device=device, tenant=tenant, now=self.now
        )
        self.store = accepted.store
        return accepted

    def refuses(
        self, assignment: bytes, error: type[Exception], match: str = ".", **who: str
    ) -> None:
        """The device refuses with `error`, and its store is as it was."""
        before = self.store
        with pytest.raises(error, match=match):
            self.accept(assignment, **who)
        assert self.store is before


def image_signers() -> ImageSigners:
    return ImageSigners(
        targets=signer("image targets"),
        snapshot=signer("image snapshot"),
        timestamp=signer("image timestamp"),
        root=[signer("image root")],
    )


def director_signers() -> DirectorSigners:
    return DirectorSigners(
        targets=signer("director targets"),
        messages=[signer("messages").public_key],
        root=[signer("director root")],
    )


def new_house(now: float = NOW) -> House:
    """Two new repositories, and a device that trusts their roots."""
    image = ImageRepository.create(image_signers(), now)
    director = Director.create(director_signers(), now)
    store = trust.initial(image.files["1.root.json"], director.files["1.root.json"], now=now)
    return House(image, director, store, now)
