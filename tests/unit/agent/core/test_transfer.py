"""How a device fetches: quiet hours, limits, HTTPS as the fallback and by preference, without losing a byte."""

from __future__ import annotations

import pytest
from support.virtual_agent import Device, PowerCutError
from support.virtual_cloud import BLOCK, NOW, Cloud, content

from agent.core import commands as cmd
from agent.core import events as ev
from agent.core.states import State

pytestmark = pytest.mark.agent

DAY_S = 86_400
BIG = content("digits", "1", "good", size=40 * BLOCK)


def device_of(cloud: Cloud, *, data: bytes = BIG, **terms: object) -> Device:
    device = Device(cloud, https=True)
    cloud.assign(cloud.release("digits", "1", data=data), **terms)
    return device


def clock(at: float) -> str:
    at = int(at) % DAY_S
    return f"{at // 3600:02}:{at % 3600 // 60:02}"


def asked_bytes(cloud: Cloud) -> int:
    return sum(wanted.limit * wanted.block_size_bytes for wanted in cloud.asked)


@pytest.mark.parametrize("offset_s", [0, 7200, -5 * 3600])
def test_nothing_is_fetched_in_quiet_hours_of_the_device_s_own_time(offset_s: int):
    cloud = Cloud()
    local = NOW + offset_s
    device = device_of(cloud, quiet=[f"{clock(local - 3600)}-{clock(local + 7200)}"])
    device.utc_offset_s = offset_s
    device.connect()
    device.run(3600)
    assert device.model().state is State.WAITING
    assert device.model().error_code == "transfer.quiet"
    assert "end of quiet hours" in device.model().detail
    assert clock(local + 7200) in device.model().detail
    assert cloud.asked == []
    assert cloud.reports[-1].state == "waiting"
    device.run(2 * 3600)
    assert device.answering() == "1"


def test_quiet_hours_that_begin_in_the_middle_pause_the_download_and_keep_what_is_there():
    cloud = Cloud()
    device = device_of(
        cloud, limit_bytes_s=BLOCK // 2, quiet=[f"{clock(NOW + 60)}-{clock(NOW + 3660)}"]
    )
    device.connect()
    device.run(300)
    assert device.model().state is State.WAITING
    first = asked_bytes(cloud)
    assert 0 < first < len(BIG)
    device.run(3700)
    assert device.answering() == "1"
    assert asked_bytes(cloud) <= len(BIG) + 4 * BLOCK


def test_quiet_hours_wait_for_the_cloud_s_time_after_a_restart():
    cloud = Cloud()
    device = device_of(cloud, quiet=[f"{clock(NOW - 60)}-{clock(NOW + 3600)}"])
    device.connect()
    device.run(60)
    device.disconnect()
    device.boot()
    cloud.now += 7200  # the device was off; its own floor of time is inside the quiet hours still
    device.connect()
    device.run(60)
    assert device.answering() == "1"


def test_other_terms_are_followed_at_once():
    cloud = Cloud()
    device = device_of(cloud, quiet=[f"{clock(NOW - 60)}-{clock(NOW + 36000)}"])
    device.connect()
    device.run(60)
    assert device.model().state is State.WAITING
    cloud.assign("digits/1/cpu.outrider")
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.answering() == "1"


def test_waiting_says_that_the_link_is_missing():
    cloud = Cloud()
    device = device_of(cloud, quiet=[f"{clock(NOW - 60)}-{clock(NOW + 3600)}"])
    device.connect()
    device.run(60)
    device.disconnect()
    device.run(1000)
    assert "link" in device.model().detail


def test_a_limit_holds_on_either_way():
    for above in (0, 1):
        cloud = Cloud()
        device = device_of(cloud, limit_bytes_s=BLOCK, https_above_bytes=above)
        device.connect()
        device.run(20)
        assert device.model().state is State.FETCHING
        done = device.core.machines["digits"].acquisition.fetch.figures()["bytes_done"]
        assert 10 * BLOCK <= done <= 22 * BLOCK
        device.run(100)
        assert device.answering() == "1"


def test_a_longer_blob_than_the_operator_set_comes_over_https():
    cloud = Cloud()
    device = device_of(cloud, https_above_bytes=len(BIG) - 1)
    device.connect()
    device.run(60)
    assert device.answering() == "1"
    assert cloud.asked == []
    staged = next(r for r in cloud.reports if r.state == "staged")
    assert staged.figures["blocks_by_https"] == 41


def gets(device: Device) -> int:
    return sum(isinstance(command, cmd.GetBlocks) for command in device.log)


def test_it_switches_to_https_when_mqtt_brings_nothing_and_fetches_nothing_twice():
    cloud = Cloud()
    device = device_of(cloud, limit_bytes_s=BLOCK)
    device.connect()
    device.run(20)
    before = asked_bytes(cloud)
    assert 0 < before < len(BIG)
    cloud.mute = True
    device.run(120)
    assert device.answering() == "1"
    by_https = sum(
        c.wanted.limit * c.wanted.block_size_bytes
        for c in device.log
        if isinstance(c, cmd.GetBlocks)
    )
    assert before + by_https <= len(BIG) + 3 * BLOCK


def test_it_switches_to_https_when_the_link_goes_and_fetches_nothing_twice():
    cloud = Cloud()
    device = device_of(cloud, limit_bytes_s=BLOCK)
    device.connect()
    device.run(20)
    device.disconnect()
    device.run(120)
    assert gets(device)
    assert device.model().state in {State.PROBATION, State.COMMITTED}


def test_it_switches_to_mqtt_when_https_fails_and_back_when_it_works_again():
    cloud = Cloud()
    device = device_of(cloud, https_above_bytes=1, limit_bytes_s=BLOCK // 4)
    device.connect()
    device.run(20)
    assert cloud.asked == []
    device.https = False
    device.run(20)
    assert cloud.asked
    device.https = True
    device.run(40)
    asked, got = len(cloud.asked), gets(device)
    device.run(20)
    assert len(cloud.asked) == asked
    assert gets(device) > got
    device.run(200)
    assert device.answering() == "1"


@pytest.mark.parametrize("terms", [{}, {"https_above_bytes": 1}, {"shared": 5}])
def test_power_cuts_at_any_moment_of_a_download_end_in_the_signed_bytes(terms: dict):
    for cut in range(5, 200, 17):
        cloud = Cloud()
        device = device_of(cloud, **terms)
        device.power = cut
        try:
            device.connect()
            device.run(60)
        except PowerCutError:
            device.power = None
            device.boot()
            device.connect()
        device.survive(120)
        assert device.answering() == "1", cut


def test_a_broadcast_that_nobody_sends_is_left_for_pulling():
    cloud = Cloud()
    device = device_of(cloud, shared=5)
    device.connect()
    device.run(10)
    assert device.listens
    device.run(60)
    assert not device.listens
    assert device.answering() == "1"


def test_without_room_for_all_of_it_not_a_byte_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    def full(device: Device, c: cmd.Prepare) -> None:
        device._post(
            ev.PrepareFailed(model=c.model, sha256=c.sha256, code="disk.full", detail="no room")
        )

    cloud = Cloud()
    with monkeypatch.context() as patched:
        patched.setattr(Device, "_on_prepare", full)
        device = device_of(cloud)
        device.connect()
        device.run(30)
        assert (device.model().state, device.model().error_code) == (State.WAITING, "disk.full")
        assert cloud.asked == []
        assert not gets(device)
    device.run(60)
    assert device.answering() == "1"
