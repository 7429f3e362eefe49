"""A device in a test: a real MQTT client that seals what it says and opens what it hears."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from support.artifacts import host_pem
from support.installation import TENANT, House, Identity, Peer, eventually

from cloud.services import trust
from fleet.registry.repositories import Models, Trust
from fleet.registry.tables import Artifact, DesiredModel, Release, ReleaseVariant
from fleet.wire import codec, envelope, topics
from fleet.wire.messages import Ack, Birth, Block, Command, Desired, Refusal, Status
from fleet.wire.topics import Down, Up
from ota.metadata.release import target_path
from ota.signing import keys
from ota.transfer.blocks import block_list, choose_block_size


class Device:
    """A connected device."""

    def __init__(self, house: House, identity: Identity, connect: Callable[..., Peer]) -> None:
        self.house = house
        self.id = identity.device
        self.identity = identity
        self.peer = connect(
            identity,
            will=topics.up(TENANT, self.id, Up.STATUS),
            will_payload=codec.to_json(Status(device=self.id, online=False)),
            subscribe=(topics.down_filter(TENANT, self.id),),
        )
        eventually(lambda: self.peer.subscribed == [True], f"{self.id} is connected")

    def say(self, kind: Up, payload: bytes, *, counter: int = 1, by: Any = None) -> None:
        """Send a sealed message."""
        sealed = envelope.seal(
            kind.value, self.id, payload, by or self.identity.signer, counter=counter
        )
        self.shout(kind, envelope.to_bytes(sealed))

    def shout(self, kind: Up, payload: bytes) -> None:
        """Send bytes as they are."""
        self.peer.client.publish(topics.up(TENANT, self.id, kind), payload, qos=1)

    def birth(self, **fields: Any) -> Birth:
        made = Birth(
            device=self.id,
            boot_epoch="e1",
            agent_version="1",
            hardware_class="cpu-x86-64",
            runtimes=[],
            models=[],
            trust={},
            **{"nonce": "n1", **fields},
        )
        self.say(Up.BIRTH, codec.to_json(made))
        return made

    def opened(self, kind: Down) -> list[bytes]:
        """Payloads of the sealed messages of a kind, each checked with the cloud's message key."""
        key = keys.message_signer(self.house.context.settings.data)
        public = self.house.message_key()
        return [
            envelope.unseal(
                envelope.from_bytes(data),
                {key.key_id: public},
                kind=kind.value,
                device=self.id,
                now=self.house.context.clock(),
            )
            for data in self.peer.got(f"/down/{kind.value}")
        ]

    def acked(self) -> set[tuple[str, int]]:
        acks = [codec.from_json(Ack, data) for data in self.opened(Down.ACK)]
        return {(epoch, seq) for ack in acks for epoch, seqs in ack.acked.items() for seq in seqs}

    def desired(self) -> list[Desired]:
        return [codec.from_json(Desired, data) for data in self.opened(Down.DESIRED)]

    def refusals(self) -> list[Refusal]:
        return [codec.from_json(Refusal, data) for data in self.opened(Down.RES)]

    def commands(self) -> list[Command]:
        return [codec.from_json(Command, data) for data in self.opened(Down.CMD)]

    def blocks(self) -> list[Block]:
        return [codec.from_msgpack(Block, data) for data in self.peer.got("/down/blob")]


def assign(
    house: House, device: str, data: bytes, *, version: str = "1", runtime: str = "litert"
) -> Artifact:
    """Store a blob, release it, and assign it to a device."""
    context = house.context
    size = choose_block_size(len(data))
    listed = block_list(data, size)
    artifact = Artifact(
        sha256=context.blobs.put(data),
        model="digits",
        version=version,
        target="cpu",
        runtime=runtime,
        runtime_version="1",
        hardware_classes=["cpu-x86-64"],
        recipe="float32",
        status="accepted",
        evidence="strong",
        size_bytes=len(data),
        block_size_bytes=size,
        blocks_sha256=context.blobs.put(listed),
        blocks_length_bytes=len(listed),
        created_at=context.clock(),
    )
    assert artifact.blocks_sha256 == hashlib.sha256(listed).hexdigest()
    release = f"digits@{version}"
    with context.unit() as unit:
        models = Models(unit.session)
        if models.find_release(release) is None:
            models.add(artifact)
            row = Release(
                id=release,
                model="digits",
                version=version,
                security_floor="",
                created_at=unit.now,
                created_by="test",
            )
            models.add(row)
            path = target_path("digits", version, "cpu")
            variant = ReleaseVariant(
                release=release, target="cpu", artifact=artifact.sha256, path=path
            )
            models.add(variant)
            trust.add_release(
                unit,
                context.settings,
                model="digits",
                version=version,
                security_floor="",
                variants=[trust.Variant(artifact, [host_pem()])],
            )
        wish = DesiredModel(
            device=device,
            model="digits",
            release=release,
            artifact=artifact.sha256,
            updated_at=unit.now,
        )
        Trust(unit.session).set_desired(wish)
        trust.assign(unit, context.settings, device)
    return artifact
