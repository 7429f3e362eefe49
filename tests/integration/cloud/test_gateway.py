"""The gateway with a real broker, a real registry and real MQTT clients as devices."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from support.installation import House, Peer, eventually
from support.mqtt_device import Device, assign

from cloud.auth import ca
from cloud.gateway import metrics
from cloud.services import enrolment, ingest
from fleet.registry.repositories import Devices, Telemetry, Trust
from fleet.telemetry.window import Window
from fleet.wire import codec, envelope
from fleet.wire.messages import (
    BlocksWanted,
    CommandOp,
    Event,
    MetadataWanted,
    Reported,
    Status,
    TelemetryBatch,
)
from fleet.wire.topics import Down, Up
from ota.transfer.bitmap import pack
from ota.transfer.blocks import parse_block_list

Connect = Callable[..., Peer]


def event(device: str, seq: int, text: str = "hello") -> bytes:
    made = Event(device=device, boot_epoch="e1", seq=seq, at=1.0, code="test", text=text)
    return codec.to_json(made)


def window(seq: int) -> Window:
    return Window(
        boot_epoch="e1",
        seq=seq,
        model="digits",
        release="digits@1",
        sha256="0" * 64,
        started=1.0,
        ended=2.0,
        inferences=10,
    )


def wanted(digest: str, size: int, indices: set[int], id: str = "r1") -> bytes:  # noqa: A002
    first, bits = pack(indices)
    made = BlocksWanted(
        id=id, digest=digest, block_size_bytes=size, first=first, bitmap=bits, limit=len(indices)
    )
    return codec.to_json(made)


def count(kind: Up, outcome: str) -> float:
    return float(metrics.MESSAGES.labels(kind.value, outcome)._value.get())


def is_online(house: House, device: str) -> bool:
    with house.context.read() as session:
        return Devices(session).get(device).online


def test_a_birth_is_answered_with_the_signed_desired_state(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    artifact = assign(wired, "a", b"x" * 5000)
    device.birth(nonce="abc")
    answer = eventually(lambda: [d for d in device.desired() if d.nonce == "abc"], "an answer")[0]
    assert artifact.sha256.encode() in answer.director["targets.json"]
    assert {"timestamp.json", "snapshot.json", "targets.json", "digits.json"} <= set(answer.image)
    assert abs(answer.now - wired.context.clock()) < 60
    assert is_online(wired, "a")


def test_every_kind_is_stored_and_then_acknowledged(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    device.birth()
    device.say(Up.EVENT, event("a", 1))
    report = Reported(
        device="a",
        boot_epoch="e1",
        seq=2,
        model="digits",
        release="digits@1",
        sha256="0" * 64,
        assignment_counter=1,
        state="fetching",
        at=1.0,
    )
    device.say(Up.REPORTED, codec.to_json(report), counter=2)
    batch = TelemetryBatch(device="a", windows=[window(3), window(4)])
    device.say(Up.TELEMETRY, codec.to_msgpack(batch), counter=4)
    eventually(lambda: device.acked() == {("e1", n) for n in (1, 2, 3, 4)}, "four rows acked")
    with wired.context.read() as session:
        held = Telemetry(session)
        assert [e.seq for e in held.events("a")] == [1]
        assert [r.seq for r in held.reports("a")] == [2]
        assert sorted(w.seq for w in held.windows("a")) == [3, 4]


def test_what_comes_twice_is_stored_once_and_acknowledged_twice(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    device.say(Up.EVENT, event("a", 1))
    eventually(lambda: len(device.opened(Down.ACK)) == 1, "first ack")
    device.say(Up.EVENT, event("a", 1))
    eventually(lambda: len(device.opened(Down.ACK)) == 2, "second ack")
    with wired.context.read() as session:
        assert len(Telemetry(session).events("a")) == 1


def test_nothing_is_acknowledged_that_was_not_committed(
    wired: House, connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    device = Device(wired, wired.identity("a"), connect)
    stored = ingest.event
    failures = count(Up.EVENT, "failed")

    def fails(*_: object) -> ingest.Acked:
        raise OSError("the disk is full")

    monkeypatch.setattr(ingest, "event", fails)
    device.say(Up.EVENT, event("a", 1))
    eventually(lambda: count(Up.EVENT, "failed") == failures + 1, "the failure")
    monkeypatch.setattr(ingest, "event", stored)
    device.say(Up.EVENT, event("a", 2), counter=2)
    eventually(device.acked, "an ack")
    assert device.acked() == {("e1", 2)}
    device.say(Up.EVENT, event("a", 1))
    eventually(lambda: device.acked() == {("e1", 1), ("e1", 2)}, "the ack of what came again")


def test_an_ack_that_was_lost_is_given_when_the_row_comes_again(answered: House, connect: Connect):
    device = Device(answered, answered.identity("a"), connect)
    first = answered.start_gateway()
    first._handler.flush = lambda: None  # the process dies between the commit and the ack
    device.say(Up.EVENT, event("a", 1))

    def stored() -> bool:
        with answered.context.read() as session:
            return len(Telemetry(session).events("a")) == 1

    eventually(stored, "the row is committed")
    answered.loop.run(first.stop())
    assert device.acked() == set()
    second = answered.start_gateway()
    try:
        device.say(Up.EVENT, event("a", 1))
        eventually(lambda: device.acked() == {("e1", 1)}, "the ack")
        assert stored()
    finally:
        answered.loop.run(second.stop())


def test_forged_and_malformed_messages_change_nothing(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    other = Device(wired, wired.identity("b"), connect)
    before = {k: count(Up.EVENT, k) for k in ("forged", "malformed", "handled")}
    device.say(Up.EVENT, event("a", 1), by=other.identity.signer)
    device.say(Up.EVENT, event("a", 2), by=envelope.signer(ca.new_key()))
    device.say(Up.EVENT, event("b", 3))
    device.say(Up.EVENT, b"{}")
    device.say(Up.EVENT, b"[" * 5000)
    device.shout(Up.EVENT, b"")
    device.shout(Up.EVENT, b"\xc1" * 100)
    device.shout(Up.EVENT, b"x" * 950_000)
    sealed = envelope.seal("event", "a", event("a", 4), device.identity.signer, counter=4)
    device.shout(Up.REPORTED, envelope.to_bytes(sealed))
    device.say(Up.EVENT, event("a", 9), counter=9)
    eventually(lambda: device.acked() == {("e1", 9)}, "the honest message")
    assert other.acked() == set()
    assert count(Up.EVENT, "forged") == before["forged"] + 3
    assert count(Up.EVENT, "malformed") == before["malformed"] + 5
    assert count(Up.EVENT, "handled") == before["handled"] + 1


def test_presence_follows_births_and_wills(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    device.birth()
    eventually(lambda: is_online(wired, "a"), "online")
    device.peer.client.reconnect_delay_set(60, 60)
    device.peer.client.socket().shutdown(2)
    eventually(lambda: not is_online(wired, "a"), "offline")


def test_a_late_will_of_an_earlier_connection_does_not_leave_a_device_offline(
    wired: House, connect: Connect
):
    device = Device(wired, wired.identity("a"), connect)
    device.birth()
    eventually(lambda: is_online(wired, "a"), "online")
    asked = len(device.commands())
    device.shout(Up.STATUS, codec.to_json(Status(device="a", online=False)))
    eventually(lambda: len(device.commands()) > asked, "it is asked whether it is there")
    device.birth(nonce="n2")
    eventually(lambda: is_online(wired, "a"), "online again")


def test_presence_of_another_device_cannot_be_claimed(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    forged = count(Up.STATUS, "forged")
    device.shout(Up.STATUS, codec.to_json(Status(device="b", online=True)))
    eventually(lambda: count(Up.STATUS, "forged") == forged + 1, "dropped")


def test_a_blob_travels_block_by_block(wired: House, connect: Connect):
    data = bytes(range(256)) * 1200
    device = Device(wired, wired.identity("a"), connect)
    artifact = assign(wired, "a", data)
    device.birth()
    eventually(device.desired, "desired")
    device.say(Up.REQ, (wanted(artifact.blocks_sha256, 0, {0})))
    listed = parse_block_list(eventually(device.blocks, "the block list")[0].data)
    device.peer.received.clear()
    half = set(range(0, listed.count, 2))
    for indices in (half, set(range(listed.count)) - half):
        device.say(Up.REQ, (wanted(artifact.sha256, artifact.block_size_bytes, indices)))
    blocks = eventually(
        lambda: found if len(found := device.blocks()) == listed.count else None, "all blocks"
    )
    assert all(listed.holds(block.index, block.data) for block in blocks)
    assert b"".join(b.data for b in sorted(blocks, key=lambda b: b.index)) == data


def test_a_blob_of_another_device_is_refused(wired: House, connect: Connect):
    wired.identity("owner")
    artifact = assign(wired, "owner", b"secret" * 1000)
    thief = Device(wired, wired.identity("thief"), connect)
    for number, digest in enumerate((artifact.sha256, artifact.blocks_sha256, "../../etc/passwd")):
        thief.say(Up.REQ, wanted(digest, 0, {0}, id=f"r{number}"))
    found = eventually(
        lambda: refused if len(refused := thief.refusals()) == 3 else None, "refusals"
    )
    assert {(r.id, r.code) for r in found} == {(f"r{n}", "blob.not_assigned") for n in range(3)}
    assert thief.blocks() == []


def test_a_device_that_does_not_read_holds_nobody_up(wired: House, connect: Connect):
    slow = Device(wired, wired.identity("slow"), connect)
    other = Device(wired, wired.identity("other"), connect)
    artifact = assign(wired, "slow", bytes(24 << 20))
    count_of_blocks = 24 * 16
    for first in range(0, count_of_blocks, 64):
        indices = set(range(first, first + 64))
        slow.say(
            Up.REQ,
            wanted(artifact.sha256, artifact.block_size_bytes, indices, id=f"r{first}"),
        )
    eventually(slow.blocks, "the first block")
    slow.peer.client.loop_stop()
    began = time.monotonic()
    for seq in range(1, 6):
        other.say(Up.EVENT, event("other", seq), counter=seq)
        eventually(lambda seq=seq: ("e1", seq) in other.acked(), f"ack of {seq}", 10)
    assert time.monotonic() - began < 10


def test_an_oversize_message_costs_its_sender_the_connection_and_nothing_else(
    wired: House, connect: Connect
):
    other = Device(wired, wired.identity("other"), connect)
    wild = Device(wired, wired.identity("wild"), connect)
    wild.peer.client.publish("outrider/v1/default/d/wild/up/event", bytes(2 << 20), qos=0)
    eventually(lambda: wild.peer.disconnects, "the broker cuts it")
    other.say(Up.EVENT, event("other", 1))
    eventually(lambda: other.acked() == {("e1", 1)}, "others go on")
    eventually(lambda: wild.peer.connected, "it may come back")


def test_metadata_is_sent_on_request(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    device.say(Up.REQ, codec.to_json(MetadataWanted(id="m1", nonce="fresh")))
    eventually(lambda: [d for d in device.desired() if d.nonce == "fresh"], "an answer")


def test_a_new_assignment_is_pushed_and_asked_about_until_the_device_shows_it(
    answered: House, connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cloud.gateway.pushes.FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr("cloud.gateway.pushes.LOOK_INTERVAL_S", 0.1)
    running = answered.start_gateway()
    device = Device(answered, answered.identity("a"), connect)
    device.birth()
    eventually(device.desired, "the answer to the birth")
    artifact = assign(answered, "a", b"x" * 3000)
    eventually(
        lambda: any(
            artifact.sha256.encode() in d.director["targets.json"] for d in device.desired()
        ),
        "the push",
    )
    asked = len(device.commands())
    eventually(lambda: len(device.commands()) >= asked + 2, "questions what it has")
    with answered.context.read() as session:
        newest = Trust(session).newest_assignment("a")
    assert newest is not None
    device.birth(nonce="n2", assignment_counter=newest.counter)
    eventually(lambda: any(d.nonce == "n2" for d in device.desired()), "the second birth")
    eventually(lambda: not running._pushes._pushed, "nobody is behind")
    answered.loop.run(running.stop())


def test_at_its_start_the_gateway_asks_every_device_for_its_birth(
    answered: House, connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cloud.gateway.pushes.PRESENCE_GRACE_S", 0.5)
    monkeypatch.setattr("cloud.gateway.pushes.LOOK_INTERVAL_S", 0.2)
    answered.identity("silent")
    ingest.status(answered.context, Status(device="silent", online=True))
    device = Device(answered, answered.identity("a"), connect)
    running = answered.start_gateway()
    try:
        command = eventually(device.commands, "a command")[0]
        assert command.op is CommandOp.REBIRTH
        device.birth()
        eventually(lambda: is_online(answered, "a"), "online")
        eventually(lambda: not is_online(answered, "silent"), "the silent one is offline")
        assert is_online(answered, "a")
    finally:
        answered.loop.run(running.stop())


def test_a_revoked_device_is_cut_and_its_messages_no_longer_count(wired: House, connect: Connect):
    device = Device(wired, wired.identity("a"), connect)
    device.birth()
    eventually(lambda: is_online(wired, "a"), "online")
    with wired.context.unit() as unit:
        enrolment.revoke(unit, "a", actor="test")
    eventually(lambda: device.peer.disconnects, "cut")
    assert not is_online(wired, "a")
