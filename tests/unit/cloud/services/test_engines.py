"""A builder's engine reaches its twins only whole, as attested, without host code, and reproduced by another device."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support import clouds
from support.clouds import Cloud, Endpoint

from agent.adapters.exports import Built, Exports
from agent.core.commands import BuildForTwins, ReadEngine
from cloud.errors import InputError
from cloud.gateway import orders
from cloud.gateway.blocks import BlockServer
from cloud.gateway.handler import Handler
from cloud.gateway.inbox import Incoming
from cloud.services import attestors, cohorts, engines, proving, releases, rollouts, views
from cloud.services.cohorts import Cohort
from fleet.artifact import package
from fleet.errors import OutriderError
from fleet.registry.errors import ConflictError
from fleet.registry.repositories import Engines, Models, Proving
from fleet.registry.tables import EngineBuild
from fleet.wire import codec, envelope
from fleet.wire.messages import (
    Command,
    CommandOp,
    EngineBlock,
    EngineFailure,
    EngineOffer,
    RuntimeInfo,
)
from fleet.wire.topics import Down, Up, UpTopic
from ota.metadata import statement
from ota.proving.engine import BLOCK_BYTES
from ota.rollout.plan import RolloutSpec
from ota.transfer import bitmap
from ota.verify.artifact import VerifiedArtifact

ENVIRONMENT = {
    "device_name": "Orin Nano", "compute_capability": "8.7", "l4t": "36.4", "tensorrt": "10.3.0",
}  # fmt: skip
ENGINE = random.Random(5).randbytes(3 * BLOCK_BYTES + 17)
GOOD = {
    "golden_cosine_min": 1.0, "golden_max_abs": 0.0, "latency_ms_p50": 0.5, "latency_ms_p95": 0.8,
    "peak_memory_mib": 40.0,
}  # fmt: skip


class Scripted:
    """A builder that gives the engine of the script."""

    def __init__(self, folder: Path, engine: bytes = ENGINE, **changes: Any) -> None:
        self.file = folder / "model.engine"
        self.file.write_bytes(engine)
        digest = hashlib.sha256(engine).hexdigest()
        fields = {"sha256": digest, "environment": ENVIRONMENT, "host_code": False}
        self.built = Built(path=self.file, **(fields | changes))
        self.asked: list[str] = []

    async def build(self, artifact: VerifiedArtifact) -> Built:
        self.asked.append(artifact.package.manifest.payload.sha256)
        return self.built


class House:
    """The cloud with its gateway's handler, a builder that runs digits@1, and its twin."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self.cloud, self.folder = cloud, folder
        self.sent: list[tuple[str, Down, bytes]] = []
        context = cloud.context
        self.handler = Handler(context, self._send, BlockServer(context, None))  # type: ignore[arg-type]  # no blocks are sent
        cloud.publish_model()
        self.source = cloud.add_artifact(runtime="tensorrt", target="jetson").sha256
        releases.create(context, model="digits", version="1", by="ann")
        self.devices: dict[str, Endpoint] = {}
        for name in ("builder", "twin", "other"):
            device = clouds.enrol(
                cloud, name, keys=True, runtimes=[RuntimeInfo(name="tensorrt", version="10.3.0")]
            )
            l4t = "35.1" if name == "other" else "36.4"
            device.connect(environment={**ENVIRONMENT, "l4t": l4t})
            self.devices[name] = device
        self.roll("digits@1", "builder")
        with context.unit() as unit:
            engines.name(unit, "builder", on=True, by="op")

    def roll(self, release: str, *names: str) -> None:
        spec = RolloutSpec(waves=[100.0], soak_s=0.0)
        rollouts.create(
            self.cloud.context, release=release, cohort=Cohort(devices=list(names)), spec=spec,
            start=True, by="op",
        )  # fmt: skip
        for name in names:
            self.devices[name].update()

    def order(self) -> EngineBuild:
        return engines.order(self.cloud.context, self.source, by="ann")

    def now(self, build: EngineBuild) -> EngineBuild:
        with self.cloud.context.read() as session:
            return Engines(session).get(build.id)

    def say(self, message: msgspec.Struct, *, device: str = "builder") -> None:
        key = self.devices[device].key
        assert key is not None
        sealed = envelope.seal(
            "req", device, codec.to_json(message), envelope.signer(key), counter=0
        )
        self.handler.handle(Incoming(UpTopic("default", device, Up.REQ), envelope.to_bytes(sealed)))

    def offer(self, build: EngineBuild, **changes: Any) -> EngineOffer:
        fields = {
            "id": build.id, "artifact": self.source, "engine": hashlib.sha256(ENGINE).hexdigest(),
            "length_bytes": len(ENGINE), "environment": ENVIRONMENT, "host_code": False,
        }  # fmt: skip
        return EngineOffer(**(fields | changes))

    def blocks(
        self, build: EngineBuild, data: bytes = ENGINE, engine: str = ""
    ) -> list[EngineBlock]:
        digest = engine or hashlib.sha256(data).hexdigest()
        return [
            EngineBlock(id=build.id, engine=digest, index=n, data=data[n * BLOCK_BYTES :][:BLOCK_BYTES])
            for n in range(-(-len(data) // BLOCK_BYTES))
        ]  # fmt: skip

    def commands(self) -> list[Command]:
        """What the builder was asked for since the last time."""
        found = [codec.from_json(Command, envelope.from_bytes(d).payload) for _, k, d in self.sent if k is Down.CMD]  # fmt: skip
        self.sent.clear()
        return found

    def built(self) -> EngineBuild:
        build = self.order()
        self.say(self.offer(build))
        for block in self.blocks(build):
            self.say(block)
        return self.now(build)

    def _send(self, topic: UpTopic, kind: Down, payload: bytes) -> None:
        self.sent.append((topic.device, kind, payload))


@pytest.fixture
def house(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(tmp_path / "compile-key.pem"))
    return House(cloud, tmp_path)


def test_the_device_builds_attests_and_hands_over(house: House) -> None:
    """The cloud's commands through the agent's own export, block by block."""
    build = house.order()
    scripted = Scripted(house.folder)
    exports = Exports(scripted)
    slot = house.folder / "artifact.outrider"
    slot.write_bytes(house.cloud.context.blobs.read(house.source))
    asked = [command for _, command in orders.due(house.cloud.context)]
    assert orders.due(house.cloud.context) == []
    steps = 0
    while asked:
        command = asked.pop(0)
        steps += 1
        if command.op is CommandOp.BUILD:
            ordered = BuildForTwins(
                order=command.id, model="digits", sha256=command.artifact,
                length_bytes=slot.stat().st_size, slot="a",
            )  # fmt: skip
            ready = asyncio.run(exports.build(ordered, slot))
            house.say(house.offer(build, engine=ready.engine, length_bytes=ready.length_bytes))
        else:
            for index in bitmap.unpack(command.first, command.bitmap):
                wanted = ReadEngine(
                    order=command.id, engine=command.engine, indices=[index],
                    block_size_bytes=command.block_size_bytes,
                )  # fmt: skip
                data = exports.read(wanted, index)
                house.say(EngineBlock(id=command.id, engine=command.engine, index=index, data=data))
        asked += house.commands()
    assert steps == 2
    assert len(scripted.asked) == 1
    done = house.now(build)
    assert done.state == "built", done.reason
    with house.cloud.context.read() as session:
        derived = Models(session).find_artifact(done.derived or "")
    assert derived is not None
    assert (derived.standing, derived.built_from, derived.built_by) == ("unproven", house.source, "builder")  # fmt: skip
    assert (derived.runtime_version, derived.twin) == ("10.3.0", ENVIRONMENT)
    data = house.cloud.context.blobs.read(derived.sha256)
    assert package.read(data).payload == ENGINE
    assert len(attestors.of(house.cloud.context, derived.sha256)) == 1
    payload, _ = statement.open_envelope(package.read(data).attestation)
    said = statement.parse(payload).predicate["buildDefinition"]["internalParameters"]["recipe"]
    assert said["settings"]["built_by"] == "builder"


def test_blocks_may_come_in_any_order_twice_or_late(house: House) -> None:
    build = house.order()
    house.say(house.offer(build))
    blocks = house.blocks(build)
    order = [*blocks[::-1][:3], *blocks[1:3], blocks[3]]
    for block in order:
        house.say(block)
    assert house.now(build).state == "receiving"
    with house.cloud.context.read() as session:
        assert views.engine(session, build.id).progress == 0.75
    house.cloud.clock.now += orders.ASK_EVERY_S
    ((_, command),) = orders.due(house.cloud.context)
    assert list(bitmap.unpack(command.first, command.bitmap)) == [0]
    house.say(house.offer(build))  # the same engine again: nothing is dropped
    house.say(blocks[0])
    assert house.now(build).state == "built"
    house.say(blocks[0])
    assert house.now(build).state == "built"


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 99}, {"index": -1}, {"data": b""}, {"data": ENGINE[: BLOCK_BYTES - 1]},
        {"data": ENGINE[: BLOCK_BYTES + 1]}, {"engine": "0" * 64}, {"id": "other"},
    ],
    ids=["behind the end", "before the start", "empty", "truncated", "too long", "another engine", "another order"],
)  # fmt: skip
def test_a_block_that_cannot_be_one_changes_nothing(house: House, changes: dict[str, Any]) -> None:
    build = house.order()
    house.say(house.offer(build))
    house.say(msgspec.structs.replace(house.blocks(build)[0], **changes))
    assert house.now(build).state == "receiving"
    with house.cloud.context.read() as session:
        assert views.engine(session, build.id).progress == 0.0
    for block in house.blocks(build):
        house.say(block)
    assert house.now(build).state == "built"


def test_another_engine_than_attested_is_refused(house: House) -> None:
    build = house.order()
    house.say(house.offer(build))
    other = bytes([ENGINE[0] ^ 1]) + ENGINE[1:]
    for block in house.blocks(build, other, hashlib.sha256(ENGINE).hexdigest()):
        house.say(block)
    ended = house.now(build)
    assert (ended.state, ended.derived) == ("refused", None)
    assert "that the device attested, found" in ended.reason


def test_a_new_attestation_begins_anew(house: House) -> None:
    build = house.order()
    house.say(house.offer(build, engine="f" * 64))
    house.say(house.blocks(build, ENGINE, "f" * 64)[0])
    house.say(house.offer(build))
    with house.cloud.context.read() as session:
        assert views.engine(session, build.id).progress == 0.0
    for block in house.blocks(build):
        house.say(block)
    assert house.now(build).state == "built"


ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(40)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"host_code": True}, "embeds code for the host"),
        ({"environment": {**ENVIRONMENT, "l4t": "35.1"}}, "expected an engine for"),
        ({"environment": {}}, "expected an engine for"),
        ({"artifact": "e" * 64}, "expected an engine of"),
        ({"length_bytes": 0}, "expected an engine of 1 to"),
        ({"length_bytes": 1 << 50}, "expected an engine of 1 to"),
    ],
)
def test_an_offer_that_may_not_be_passed_on_is_refused(
    house: House, changes: dict[str, Any], reason: str
) -> None:
    build = house.order()
    house.say(house.offer(build, **changes))
    ended = house.now(build)
    assert (ended.state, reason in ended.reason) == ("refused", True), ended.reason


def test_host_code_that_the_builder_keeps_silent_about_is_found(house: House) -> None:
    data = ENGINE + ELF
    build = house.order()
    house.say(house.offer(build, engine=hashlib.sha256(data).hexdigest(), length_bytes=len(data)))
    for block in house.blocks(build, data):
        house.say(block)
    ended = house.now(build)
    assert (ended.state, "an ELF file for machine 183" in ended.reason) == ("refused", True)


def test_only_the_builder_that_was_asked_is_heard(house: House) -> None:
    build = house.order()
    house.say(house.offer(build), device="twin")
    house.say(EngineFailure(id=build.id, code="x", text="y"), device="twin")
    assert house.now(build).state == "ordered"
    house.say(EngineFailure(id=build.id, code="agent.build", text="no memory"))
    ended = house.now(build)
    assert (ended.state, ended.reason) == ("refused", "agent.build: no memory")


def test_who_may_be_ordered(house: House) -> None:
    cloud = house.cloud
    with pytest.raises(InputError, match="roll the release out to it"):
        engines.order(cloud.context, house.source, device="twin", by="ann")
    build = house.order()
    with pytest.raises(ConflictError, match="builds already"):
        house.order()
    assert engines.cancel(cloud.context, build.id, by="ann").state == "cancelled"
    stranger = clouds.enrol(cloud, "stranger")
    stranger.connect()
    with (
        pytest.raises(InputError, match="what its engines depend on"),
        cloud.context.unit() as unit,
    ):
        engines.name(unit, "stranger", on=True, by="op")
    build = house.order()
    with cloud.context.unit() as unit:
        engines.name(unit, "builder", on=False, by="op")
    assert engines.tick(cloud.context) == 1
    assert house.now(build).state == "cancelled"


def test_silence_ends_an_order(house: House) -> None:
    build = house.order()
    house.cloud.clock.now += engines.BUILD_S + 1
    assert engines.tick(house.cloud.context) == 1
    assert house.now(build).state == "expired"


def test_a_second_device_has_to_reproduce_it_before_a_twin_gets_it(house: House) -> None:
    context = house.cloud.context
    derived = house.built().derived
    assert derived is not None
    before = releases.create(context, model="digits", version="1", by="ann")
    assert [why for name, why in before.left_out.items() if "twin-" in name] == ["unproven"]
    for name in ("builder", "other"):
        with context.unit() as unit:
            proving.name(unit, name, on=True, by="op")
    with pytest.raises(InputError, match=r"builder: built it.*other: its engines are for devices"):
        proving.prove(context, derived, by="ann")
    with context.unit() as unit:
        proving.name(unit, "twin", on=True, by="op")
    trial = proving.prove(context, derived, by="ann")
    assert trial.device == "twin"
    twin = house.devices["twin"]
    twin.fetch()
    twin.tell("measured", figures=GOOD)
    with context.read() as session:
        assert Proving(session).trial(trial.id).state == "proven"
    releases.create(context, model="digits", version="1", by="ann")
    with context.read() as session:
        members = cohorts.resolve(session, Cohort(), "digits@1")
    chosen = {m.device.id: m.artifact.sha256 if m.artifact else "" for m in members}
    assert chosen == {"builder": derived, "twin": derived, "other": house.source}
    house.roll("digits@1", "twin")
    assert twin.wanted == {"digits": derived}


def test_a_builder_that_lies_is_found_out_by_the_second_device(house: House) -> None:
    context = house.cloud.context
    derived = house.built().derived or ""
    with context.unit() as unit:
        proving.name(unit, "twin", on=True, by="op")
    trial = proving.prove(context, derived, by="ann")
    house.devices["twin"].fetch()
    house.devices["twin"].tell("failed", error_code="agent.self_test", detail="cosine 0.1")
    with context.read() as session:
        assert Proving(session).trial(trial.id).state == "refused"
    left_out = releases.create(context, model="digits", version="1", by="ann").left_out
    assert "unproven" in left_out.values()


def test_the_devices_own_checks(house: House) -> None:
    slot = house.folder / "slot"
    slot.write_bytes(house.cloud.context.blobs.read(house.source))
    ordered = BuildForTwins(
        order="o", model="digits", sha256=house.source, length_bytes=slot.stat().st_size, slot="a"
    )
    with pytest.raises(OutriderError, match="has no builder"):
        asyncio.run(Exports(None).build(ordered, slot))
    with pytest.raises(OutriderError, match="in its file; build it again"):
        asyncio.run(Exports(Scripted(house.folder, sha256="0" * 64)).build(ordered, slot))
    slot.write_bytes(b"other bytes")
    with pytest.raises(OutriderError, match=r"sha256|bytes"):
        asyncio.run(Exports(Scripted(house.folder)).build(ordered, slot))
    read = ReadEngine(order="o", engine="gone", indices=[0], block_size_bytes=BLOCK_BYTES)
    with pytest.raises(OutriderError, match="is kept here"):
        Exports(None).read(read, 0)
