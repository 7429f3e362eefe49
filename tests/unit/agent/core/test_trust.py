"""Whom the device believes: every message from the cloud must be for it, signed, unexpired and not old."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.virtual_agent import Device
from support.virtual_cloud import NOW, Cloud

from agent.core.states import State
from fleet.wire import codec, envelope
from fleet.wire.messages import Ack, CommandOp

pytestmark = pytest.mark.agent


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def device(cloud: Cloud) -> Device:
    made = Device(cloud)
    made.connect()
    made.run(1)
    return made


def counter(device: Device) -> int:
    return device.core.trust.acceptance.counter


def test_the_first_desired_brings_the_key_that_signs_it(cloud: Cloud):
    device = Device(cloud)
    assert device.core.trust.acceptance.message_keys == {}
    device.connect()
    device.run(1)
    assert counter(device) == 1
    assert len(device.core.trust.acceptance.message_keys) == 1


def test_a_replaced_message_key_is_followed(cloud: Cloud, device: Device):
    cloud.use_message_key("another")
    cloud.assign(cloud.release("digits", "1"))
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.answering() == "1"
    assert not [row for row in device.disk.rows if row.kind == "reported"]


def test_a_key_that_the_director_does_not_delegate_is_refused(cloud: Cloud, device: Device):
    cloud.assign(cloud.release("digits", "1"))
    honest = cloud.assignment
    cloud.use_message_key("thief")
    cloud.assignment = honest
    device.push("desired", cloud.desired())
    device.run(10)
    assert counter(device) == 1
    assert "digits" not in device.core.machines


@pytest.mark.parametrize(
    "changes",
    [{"device": "d2"}, {"expires": NOW - 1}, {"counter": 99}],
    ids=["device", "expired", "counter"],
)
def test_an_envelope_that_was_changed_or_is_for_another(
    cloud: Cloud, device: Device, changes: dict
):
    cloud.assign(cloud.release("digits", "1"))
    honest = envelope.from_bytes(cloud.desired())
    forged = msgspec.structs.replace(honest, **changes)
    device.push("desired", envelope.to_bytes(forged))
    assert counter(device) == 1


def test_an_expired_message_is_refused_by_trusted_time(cloud: Cloud, device: Device):
    cloud.assign(cloud.release("digits", "1"))
    late = cloud.desired(expires=cloud.now + 10)
    device.run(60)
    device.push("desired", late)
    assert counter(device) == 1


def test_an_older_assignment_is_refused(cloud: Cloud, device: Device):
    cloud.assign(cloud.release("digits", "1"))
    old = cloud.desired(expires=0.0)
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    assert counter(device) == 3
    device.push("desired", old)
    assert counter(device) == 3
    device.run(60)
    assert device.answering() == "2"


def test_a_message_of_one_kind_is_not_taken_for_another(cloud: Cloud, device: Device):
    device.disconnect()
    device.run(400)
    first = device.disk.rows[0]
    payload = codec.to_json(Ack(device="d1", acked={first.boot_epoch: [first.seq]}))
    device.push("ack", cloud.seal("res", payload))
    assert first in device.disk.rows
    device.push("ack", cloud.seal("ack", payload))
    assert first not in device.disk.rows


@given(st.binary(max_size=300), st.sampled_from(["desired", "ack", "cmd", "res", "blob", "other"]))
def test_junk_changes_nothing(junk: bytes, kind: str):
    cloud = Cloud()
    device = Device(cloud)
    before = (device.disk.trust, dict(device.disk.models))
    device.push(kind, junk)
    assert (device.disk.trust, device.disk.models) == before


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_bit_changes_nothing(at: int, flip: int):
    cloud = Cloud()
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"))
    data = bytearray(cloud.desired())
    data[at % len(data)] ^= flip
    device.push("desired", bytes(data))
    assert counter(device) == 0


def test_trusted_time_rises_with_the_answer_to_our_nonce_only(cloud: Cloud, device: Device):
    before = device.core.ctx.trusted_now()
    cloud.now += 10_000
    device.push("desired", cloud.desired())
    assert device.core.ctx.trusted_now() == pytest.approx(before, abs=1)
    device.disconnect()
    device.connect()
    device.run(1)
    assert device.core.ctx.trusted_now() == pytest.approx(cloud.now, abs=2)
    assert device.disk.trust.time_floor == pytest.approx(cloud.now, abs=2)


def test_trusted_time_never_falls(cloud: Cloud, device: Device):
    before = device.core.ctx.trusted_now()
    cloud.now -= 5_000
    device.disconnect()
    device.connect()
    device.run(1)
    assert device.core.ctx.trusted_now() >= before
    device.boot()
    assert device.core.ctx.trusted_now() >= before - 2


def test_a_nonce_serves_once(cloud: Cloud, device: Device):
    nonce = cloud.births[-1].nonce
    cloud.now += 10_000
    device.push("desired", cloud.desired(nonce))
    assert device.core.ctx.trusted_now() < cloud.now - 5_000


def test_the_local_clock_does_not_count(cloud: Cloud, device: Device):
    from agent.core.events import WallClock

    device._handle(WallClock(wall=NOW + 10**9))
    assert device.core.ctx.trusted_now() < NOW + 1000
    assert device.core.ctx.device_time() < NOW + 1000, "the cloud has told the time"
    away = Device(cloud)
    away._handle(WallClock(wall=NOW + 10**9))
    assert away.core.ctx.trusted_now() < NOW + 1000
    assert away.core.ctx.device_time() > NOW + 10**8, "it is the best guess that there is"


def test_a_damaged_trust_store_is_replaced_by_what_was_enrolled(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"))
    device.connect()
    device.run(60)
    files = dict(device.disk.trust.director)
    files["targets.json"] = files["targets.json"].replace(b"digits", b"digitz", 1)
    device.disk.trust = msgspec.structs.replace(device.disk.trust, director=files)
    device.boot()
    device.run(5)
    assert device.answering() == "1", "it goes on answering with what is committed"
    device.connect()
    device.run(30)
    assert counter(device) == 2
    assert device.model().state is State.COMMITTED
    assert "trust.damaged" in {event.code for event in cloud.events}


def test_a_command_must_grow(cloud: Cloud, device: Device):
    births = len(cloud.births)
    for number, expected in ((5, 1), (5, 1), (4, 1), (6, 2)):
        device.push("cmd", cloud.command(CommandOp.REBIRTH, number))
        assert len(cloud.births) == births + expected
