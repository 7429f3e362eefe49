"""A real Mosquitto with the generated configuration, attacked by devices with certificates of this fleet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.installation import House, Peer, eventually, peer

from cloud.auth import ca, rollover
from cloud.broker import mosquitto
from cloud.cli.broker import tell
from cloud.errors import InputError
from cloud.services import enrolment
from fleet.errors import WireError
from fleet.registry.tables import Artifact, DesiredModel, Release

pytestmark = pytest.mark.mosquitto
UP, DOWN = "outrider/v1/default/d/{}/up/{}", "outrider/v1/default/d/{}/down/{}"
EVERY_UP = "outrider/v1/default/d/+/up/+"


@dataclass
class Broker:
    """Mosquitto, and an installation that it serves."""

    house: House
    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def write(self) -> bool:
        return mosquitto.write(
            self.house.context, self.folder, mosquitto.Listener("127.0.0.1", self.port)
        )

    def start(self) -> None:
        path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
        argv = ["mosquitto", "-c", str(self.folder / mosquitto.CONFIGURATION)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stderr=log, env={**os.environ, "PATH": path})
        eventually(self._answers, "mosquitto answers")

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def broker(house: House, tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "mosquitto"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Broker(house, folder, port)
    assert made.write()
    assert not made.write(), "the same again changes nothing"
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def join(broker: Broker) -> Iterator[Callable[..., Peer]]:
    made: list[Peer] = []
    at: Any = SimpleNamespace(
        pki=broker.house.pki, listeners=SimpleNamespace(mqtt_port=broker.port)
    )

    def one(identity: Any, **options: Any) -> Peer:
        made.append(peer(at, identity, **options))
        return made[-1]

    yield one
    for each in made:
        each.client.disconnect()
        each.client.loop_stop()


def listening(house: House, join: Callable[..., Peer], *topics: str) -> Peer:
    cloud = join(house.gateway(), client_id="cloud:test", subscribe=(EVERY_UP, *topics))
    eventually(lambda: len(cloud.subscribed) == 1 + len(topics), "the cloud listens")
    return cloud


def test_foreign_topics_are_neither_said_nor_heard(broker: Broker, join: Callable[..., Peer]):
    house = broker.house
    cloud = listening(house, join)
    watched = (
        "#",
        "outrider/v1/+/d/+/up/+",
        "outrider/v1/+/d/+/down/+",
        "$SYS/#",
        DOWN.format("b", "+"),
    )
    spy = join(house.identity("a"), subscribe=(*watched, DOWN.format("a", "+")))
    other = join(house.identity("b"), subscribe=(DOWN.format("b", "+"),))
    eventually(lambda: len(spy.subscribed) == 6 and other.subscribed, "answers")
    for topic in (
        UP.format("b", "event"),
        DOWN.format("b", "cmd"),
        "outrider/v1/other/d/a/up/event",
    ):
        spy.client.publish(topic, b"forged", qos=1)
    spy.client.publish(UP.format("a", "event"), b"own", qos=1)
    eventually(lambda: cloud.received, "own message")
    assert cloud.received == [(UP.format("a", "event"), b"own")]
    cloud.client.publish(DOWN.format("b", "cmd"), b"for b", qos=1)
    cloud.client.publish(DOWN.format("a", "cmd"), b"for a", qos=1)
    eventually(lambda: spy.received and other.received, "messages down")
    assert {topic for topic, _ in spy.received} == {DOWN.format("a", "cmd")}
    assert other.received == [(DOWN.format("b", "cmd"), b"for b")]


def test_a_client_id_cannot_be_stolen(broker: Broker, join: Callable[..., Peer]):
    house = broker.house
    cloud = listening(house, join)
    victim = join(house.identity("victim"))
    eventually(lambda: victim.connected, "the victim is there")
    thief = join(house.identity("thief"), client_id="victim", will=UP.format("victim", "status"))
    eventually(lambda: thief.connected, "the thief is there, as itself")
    thief.client.publish(UP.format("victim", "event"), b"forged", qos=1)
    thief.client.publish(UP.format("thief", "event"), b"own", qos=1)
    eventually(lambda: cloud.received, "what it may say")
    assert [topic for topic, _ in cloud.received] == [UP.format("thief", "event")]
    assert not victim.disconnects


def test_strangers_stay_outside(broker: Broker, join: Callable[..., Peer]):
    house = broker.house
    key = ca.new_key()
    worker = ca.issue_worker(
        house.pki.load_authority(), key.public_key(), worker="camera",
        now=house.context.clock(), lifetime_s=3600.0,
    )  # fmt: skip
    cloud = listening(house, join)
    as_worker = join(house.identity_from("worker", key, worker.certificate_pem))
    eventually(lambda: as_worker.connected, "a worker has a certificate of this fleet")
    as_worker.client.publish(UP.format("camera", "event"), b"forged", qos=1)
    nobody, stranger = join(None), join(house.stranger("camera"))
    eventually(lambda: nobody.disconnects and stranger.disconnects, "no handshake")
    assert not nobody.connected
    assert not stranger.connected
    known = join(house.identity("camera"))
    eventually(lambda: known.connected, "the real one")
    known.client.publish(UP.format("camera", "event"), b"own", qos=1)
    eventually(lambda: cloud.received, "its message")
    assert [payload for _, payload in cloud.received] == [b"own"]


def test_a_revoked_device_is_mute_and_deaf_at_once_and_then_refused(
    broker: Broker, join: Callable[..., Peer]
):
    house = broker.house
    cloud = listening(house, join)
    device = join(house.identity("a"), subscribe=(DOWN.format("a", "+"),))
    other = join(house.identity("b"), subscribe=(DOWN.format("b", "+"),))
    eventually(lambda: device.subscribed and other.subscribed, "connected")
    with house.context.unit() as unit:
        enrolment.revoke(unit, "a", actor="test")
    assert broker.write()
    tell(broker.folder / mosquitto.PID)
    said = broker.folder / "log"
    eventually(lambda: "Reloading config" in said.read_text(), "mosquitto read it again")
    device.client.publish(UP.format("a", "event"), b"late", qos=1)
    other.client.publish(UP.format("b", "event"), b"own", qos=1)
    cloud.client.publish(DOWN.format("a", "cmd"), b"secret", qos=1)
    cloud.client.publish(DOWN.format("b", "cmd"), b"for b", qos=1)
    eventually(lambda: cloud.received and other.received, "the other goes on")
    assert [payload for _, payload in cloud.received] == [b"own"]
    assert device.received == []
    broker.stop()
    broker.start()
    eventually(lambda: len(other.connects) == 2, "the other is back")
    failed = len(device.disconnects)
    eventually(lambda: len(device.disconnects) > failed + 1, "the revoked one is refused")
    assert len(device.connects) == 1


def test_only_assigned_blobs_are_heard(broker: Broker, join: Callable[..., Peer]):
    house = broker.house
    digests = {"a": "a" * 64, "b": "b" * 64}
    cloud = listening(house, join)
    devices = {}
    for name in digests:
        topics = tuple(f"outrider/v1/default/blob/{digest}" for digest in digests.values())
        devices[name] = join(
            house.identity(name), subscribe=(*topics, "outrider/v1/default/blob/+")
        )
        eventually(lambda n=name: len(devices[n].subscribed) == 3, "subscribed")
    with house.context.unit() as unit:
        for name, digest in digests.items():
            unit.session.add(_artifact(digest, name))
            unit.session.add(
                Release(
                    id=f"{name}@1", model=name, version="1", security_floor="",
                    created_at=1.0, created_by="test",
                )
            )  # fmt: skip
            unit.session.flush()
            unit.session.add(
                DesiredModel(
                    device=name, model=name, release=f"{name}@1", artifact=digest, updated_at=1.0
                )
            )
    assert broker.write()
    tell(broker.folder / mosquitto.PID)
    eventually(lambda: "Reloading config" in (broker.folder / "log").read_text(), "read again")
    for digest in digests.values():
        cloud.client.publish(f"outrider/v1/default/blob/{digest}", digest[:1].encode(), qos=1)
    eventually(lambda: all(one.received for one in devices.values()), "blocks")
    cloud.client.publish(DOWN.format("a", "cmd"), b"", qos=1).wait_for_publish(5)
    assert {name: {p for _, p in one.received} for name, one in devices.items()} == {
        "a": {b"a"}, "b": {b"b"},
    }  # fmt: skip


def test_both_authorities_are_accepted_during_a_rollover(broker: Broker, join: Callable[..., Peer]):
    house = broker.house
    old, revoked = house.identity("a"), house.identity("r")
    with house.context.unit() as unit:
        enrolment.revoke(unit, "r", actor="test")
    rollover.begin(house.pki, now=house.context.clock())
    house.pki.prepare(["127.0.0.1", "localhost"], now=house.context.clock())
    new = house.identity("b")
    broker.write()
    broker.stop()
    broker.start()
    both = [join(old), join(new)]
    gone = join(revoked)
    eventually(lambda: all(one.connected for one in both), "old and new connect")
    eventually(lambda: len(gone.disconnects) > 1, "a revocation of before holds")
    assert not gone.connected
    with pytest.raises(InputError, match="retire"):
        rollover.begin(house.pki, now=house.context.clock())


@pytest.mark.parametrize("name", ["a\ntopic readwrite #", "a b", "a/../b", "#", ""])
def test_a_name_cannot_write_a_line_of_its_own(name: str):
    with pytest.raises(WireError, match="legal"):
        mosquitto.access("default", {name: ["0" * 64]}, [])
    with pytest.raises(WireError, match="legal"):
        mosquitto.access("default", {}, [name])
    with pytest.raises(WireError, match="legal"):
        mosquitto.access(name, {}, [])


def _artifact(digest: str, model: str) -> Artifact:
    return Artifact(
        sha256=digest, model=model, version="1", target="cpu", runtime="litert", runtime_version="1",
        hardware_classes=["cpu-x86-64"], recipe="float32", status="accepted", evidence="strong",
        size_bytes=1, block_size_bytes=16384, blocks_sha256=digest[::-1], blocks_length_bytes=1,
        created_at=1.0,
    )  # fmt: skip
