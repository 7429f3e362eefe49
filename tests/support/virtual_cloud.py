"""A cloud in memory that signs with real keys, for devices in virtual time.

The first word of an artifact's bytes says how its worker behaves: ``good``, ``wrong`` (fails its golden
vectors), ``broken`` (does not load), ``crash`` (dies when it answers), ``faulty`` (every answer is an error),
``silent`` (nobody asks it anything), ``stuck`` (never loads and never says so).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from fleet.telemetry.window import Window
from fleet.wire import codec, envelope
from fleet.wire.messages import (
    Ack,
    Birth,
    BlocksWanted,
    Command,
    Desired,
    Event,
    Reported,
    Request,
    TelemetryBatch,
)
from ota.metadata.director import Assigned, Director, DirectorSigners
from ota.metadata.image import ImageRepository, ImageSigners
from ota.metadata.release import ReleaseFile
from ota.transfer.blocks import block_list
from ota.transfer.serve import blocks_for
from ota.transfer.terms import Terms
from ota.verify import trust
from ota.verify.trust import TrustStore

NOW = 1_800_000_000.0
BLOCK = 16 << 10
DEVICE, TENANT = "d1", "t1"
KEY = ec.derive_private_key(7, ec.SECP256R1())


def _signer(name: str) -> CryptoSigner:
    seed = hashlib.sha256(name.encode()).digest()
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(seed))


def _key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())


def content(model: str, release: str, behaviour: str, *, size: int = 3 * BLOCK + 17) -> bytes:
    """An artifact's bytes."""
    head = f"{behaviour} {model} {release} ".encode()
    return head + hashlib.sha256(head).digest() * (size // 32)


class Cloud:
    """Both repositories, blobs, and what devices have told."""

    def __init__(self, *, message_key: str = "messages") -> None:
        self.now = NOW
        self.image = ImageRepository.create(
            ImageSigners(
                targets=_signer("image targets"),
                snapshot=_signer("image snapshot"),
                timestamp=_signer("image timestamp"),
                root=[_signer("image root")],
            ),
            NOW,
        )
        self.use_message_key(message_key)
        self.root = self.director.files["1.root.json"]
        self.blobs: dict[str, bytes] = {}
        self.counter = 1
        self.assignment = self.director.assign(DEVICE, TENANT, self.counter, [], NOW)
        self.reports: list[Reported] = []
        self.events: list[Event] = []
        self.windows: dict[tuple[str, int], Window] = {}
        self.births: list[Birth] = []
        self.requests: list[Any] = []
        self.acks = True
        self.mute = False
        self.asked: list[BlocksWanted] = []
        self.seen: set[tuple[str, int]] = set()

    def use_message_key(self, name: str) -> None:
        """Sign messages with another key, which the director delegates from now on."""
        signers = DirectorSigners(
            targets=_signer("director targets"),
            messages=[_signer(name).public_key],
            root=[_signer("director root")],
        )
        old = getattr(self, "director", None)
        self.director = Director(old.files, signers) if old else Director.create(signers, NOW)
        self._by = envelope.signer(_key(name))

    def initial(self) -> TrustStore:
        """What the device was enrolled with."""
        return trust.initial(self.image.files["1.root.json"], self.root, now=NOW)

    def release(self, model: str, release: str, behaviour: str = "good", **changes: Any) -> str:
        """Sign a release; returns its path."""
        data = changes.pop("data", b"") or content(model, release, behaviour)
        listed = block_list(data, BLOCK)
        file = ReleaseFile(
            target="cpu",
            sha256=self.put(data),
            length_bytes=len(data),
            blocks_sha256=self.put(listed),
            blocks_length_bytes=len(listed),
            block_size_bytes=BLOCK,
            runtime=changes.pop("runtime", "litert"),
            hardware_classes=changes.pop("hardware_classes", ["cpu-x86-64"]),
            candidate_for=changes.pop("candidate_for", ""),
            attested_by=changes.pop("attested_by", ["builder"]),
        )
        by = _signer(f"release {model}")
        if model not in self.image.models:
            self.image.add_model(model, by, self.now)
        path = f"{model}/{release}/cpu.outrider"
        if self.image.target(path) is None:
            self.image.add_release(model, release, [file], by, self.now, **changes)
        return path

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def assign(self, *paths: str, activate_before: int = 0, **terms: Any) -> None:
        """Sign the device's next assignment."""
        self.counter += 1
        assigned = []
        for path in paths:
            target = self.image.target(path)
            assert target is not None
            assigned.append(
                Assigned(
                    path=path,
                    sha256=target.hashes["sha256"],
                    length_bytes=target.length,
                    activate_before=activate_before,
                    transfer=Terms(**terms),
                )
            )
        self.assignment = self.director.assign(DEVICE, TENANT, self.counter, assigned, self.now)

    def desired(self, nonce: str = "", **changes: Any) -> bytes:
        """The device's desired state, sealed."""
        self.image.refresh(self.now)
        message = Desired(
            device=DEVICE,
            now=self.now,
            nonce=nonce,
            image=self.image.for_device(self.image.models),
            director=self.director.for_device(self.assignment),
        )
        return self.seal("desired", codec.to_json(message), **changes)

    def seal(self, kind: str, payload: bytes, **changes: Any) -> bytes:
        fields = {"device": DEVICE, "counter": self.counter, "expires": self.now + 300} | changes
        device = fields.pop("device")
        return envelope.to_bytes(envelope.seal(kind, device, payload, self._by, **fields))

    def command(self, op: Any, counter: int, **fields: Any) -> bytes:
        command = Command(**({"id": "c", "op": op} | fields))
        return self.seal("cmd", codec.to_json(command), counter=counter)

    def hear(self, kind: str, sealed: bytes) -> Iterator[tuple[str, bytes]]:
        """Take a message; the answers."""
        found = envelope.from_bytes(sealed)
        keys = {envelope.key_id(KEY.public_key()): KEY.public_key()}
        payload = envelope.unseal(found, keys, kind=kind, device=DEVICE, now=self.now)
        if kind == "birth":
            birth = codec.from_json(Birth, payload)
            self.births.append(birth)
            yield "desired", self.desired(birth.nonce)
        elif kind == "req":
            wanted: Any = codec.from_json(Request, payload)  # type: ignore[arg-type]  # a union is a type to msgspec
            if not isinstance(wanted, BlocksWanted):
                self.requests.append(wanted)
                return
            if self.mute:
                return
            self.asked.append(wanted)
            blob = self.blobs[wanted.digest]
            for block in blocks_for(wanted, lambda start, length: blob[start : start + length]):
                yield "blob", codec.to_msgpack(block)
        else:
            yield from self._rows(kind, payload)

    def _rows(self, kind: str, payload: bytes) -> Iterator[tuple[str, bytes]]:
        rows: list[Any]
        if kind == "telemetry":
            rows = codec.from_msgpack(TelemetryBatch, payload).windows
        else:
            rows = [codec.from_json(Reported if kind == "reported" else Event, payload)]
        for row in rows:
            key = (row.boot_epoch, row.seq)
            if key in self.seen:
                continue
            self.seen.add(key)
            if kind == "telemetry":
                self.windows[key] = row
            else:
                (self.reports if kind == "reported" else self.events).append(row)
        if self.acks:
            acked: dict[str, list[int]] = {}
            for row in rows:
                acked.setdefault(row.boot_epoch, []).append(row.seq)
            yield "ack", self.seal("ack", codec.to_json(Ack(device=DEVICE, acked=acked)))
