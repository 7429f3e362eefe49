"""What a device says, and says again until it is heard: windows, rows, births, health; in virtual time."""

from __future__ import annotations

import hashlib

import pytest
from support.virtual_agent import Device
from support.virtual_cloud import Cloud

from agent.core import events as ev
from agent.core.states import State
from fleet.wire.messages import CommandOp

pytestmark = pytest.mark.agent


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def with_release(cloud: Cloud, release: str = "1", behaviour: str = "good") -> Device:
    """A connected device on which a first release is committed."""
    device = Device(cloud)
    cloud.assign(cloud.release("digits", release, behaviour))
    device.connect()
    device.run(60)
    return device


def test_windows_close_on_time_and_none_is_lost(cloud: Cloud):
    device = with_release(cloud)
    device.disconnect()
    device.run(200)
    assert len([r for r in device.disk.rows if r.kind == "telemetry"]) >= 9
    device.connect()
    device.run(60)
    windows = sorted(cloud.windows.values(), key=lambda w: w.started)
    assert all(w.ended - w.started == pytest.approx(20, abs=1.5) for w in windows[:-1])
    assert sum(w.inferences for w in windows) == pytest.approx(device.now - 1000, abs=30)
    assert all(w.merged == 1 for w in windows)


def test_rows_are_sent_again_until_they_are_acknowledged(cloud: Cloud):
    device = with_release(cloud)
    cloud.acks = False
    device.run(300)
    waiting = len(device.disk.rows)
    assert waiting > 10
    cloud.acks = True
    device.run(300)
    assert len(device.disk.rows) <= 2


def test_a_birth_names_the_assignment_that_the_device_holds(cloud: Cloud):
    device = with_release(cloud)
    assert cloud.births[0].assignment_sha256 == ""
    device.disconnect()
    device.connect()
    device.run(5)
    held = device.core.trust.store.director["targets.json"]
    birth, counter = cloud.births[-1], device.core.trust.acceptance.counter
    assert birth.assignment_counter == counter
    assert birth.assignment_sha256 == hashlib.sha256(held).hexdigest()


def test_a_rebirth_is_obeyed_once(cloud: Cloud):
    device = with_release(cloud)
    births = len(cloud.births)
    order = cloud.command(CommandOp.REBIRTH, 7)
    device.push("cmd", order)
    device.push("cmd", order)
    device.push("cmd", cloud.command(CommandOp.REBIRTH, 6))
    assert len(cloud.births) == births + 1
    device.boot()
    device.connect()
    births = len(cloud.births)
    device.push("cmd", order)
    assert len(cloud.births) == births


def test_findings_about_health_are_told_when_they_come_and_when_they_go(cloud: Cloud):
    device = with_release(cloud)
    for temperature_c in (50.0, 99.0, 99.0, 50.0):
        device._handle(ev.Sensed(figures={"temperature_c": temperature_c}))
    device.run(10)
    told = [(e.code, e.level.value) for e in cloud.events if e.code.startswith("health.")]
    assert told == [
        ("health.temperature.critical", "error"),
        ("health.temperature.high", "warning"),
        ("health.mended", "info"),
        ("health.mended", "info"),
    ]


def test_a_birth_is_said_again_until_it_is_answered(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"))
    device.lose = 1  # whatever comes down is lost, the answer too
    device.connect()
    device.run(120)
    unanswered = len(cloud.births)
    assert 3 <= unanswered <= 10
    assert len({b.nonce for b in cloud.births}) == unanswered
    device.lose = 0
    device.run(200)
    assert device.model().state is State.COMMITTED
    answered = len(cloud.births)
    device.run(1000)
    assert len(cloud.births) == answered


def test_a_cloud_that_acknowledges_nothing_does_not_make_the_device_spin(cloud: Cloud):
    device = with_release(cloud)
    cloud.acks = False
    carried = device.carried
    device.run(4 * 3600)  # hundreds of rows, more than may be in flight
    assert len(device.disk.rows) > 200
    assert device.carried - carried < 4 * 3600 * 3
    cloud.acks = True
    device.run(600)
    assert device.disk.rows == []
