"""A device that was away for weeks or years: it goes on answering, installs nothing, and comes back by itself.

Time is virtual; keys, certificates, handshakes, metadata and their verification are real.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fleet_cloud import FleetCloud
from support.virtual_agent import Device

from agent.adapters.identity import Identity
from agent.core.events import Tick
from agent.core.status import AgentStatus
from cloud.auth import rollover
from cloud.services import enrolment, trust
from fleet.registry.repositories import Trust
from ota.metadata import documents, image, roots
from ota.signing import keys

DAY_S = 86_400.0
IN_1970, IN_2099 = 60.0, 4_070_908_800.0
MINUTE_S, HOUR_S = 60.0, 3600.0


@pytest.fixture
def cloud(tmp_path: Path) -> FleetCloud:
    return FleetCloud(tmp_path / "cloud")


@pytest.fixture
def device(cloud: FleetCloud, tmp_path: Path) -> Device:
    """A device that runs the first release."""
    identity = Identity(tmp_path / "device")
    cloud.admit(identity)
    cloud.release("1")
    quiet = {"window_s": 1e12, "health_s": 1e10}
    made = Device(cloud, identity=identity, tenant="default", **quiet)
    try_to_connect(made, cloud)
    made.run(2 * MINUTE_S)
    assert made.answering() == "1"
    return made


def try_to_connect(device: Device, cloud: FleetCloud) -> str:
    """One attempt of the link; why it failed."""
    ctx = device.core.ctx
    assert device.identity is not None
    reason = cloud.link(device.identity, lambda: ctx.trusted_at(device.now))
    if reason:
        device.fail_to_connect(reason, refused=True)
    else:
        device.connect()
    return reason


def come_back(device: Device, cloud: FleetCloud, within_s: float = HOUR_S) -> float:
    """The link is there again; how long it took until the newest release answers."""
    began = device.now
    while device.now < began + within_s:
        if not device.online:
            try_to_connect(device, cloud)
        device.run(30)
        if device.online and device.answering() == "2":
            return device.now - began
    raise AssertionError(f"not back: {status_of(device).holds}")


def new_roots(cloud: FleetCloud) -> None:
    """The operator's ceremony before the roots end."""
    folder = cloud.context.settings.data
    signers = {"image": keys.image_signers(folder), "director": keys.director_signers(folder)}
    for name, by in signers.items():
        with cloud.context.unit() as unit:
            files = Trust(unit.session).files(name)
            number, root = roots.latest(files, name=name)
            new = roots.following(root, repository=name, now=cloud.now)
            files[f"{number + 1}.root.json"] = documents.write(new, list(by.root))
            Trust(unit.session).put_files(name, files, now=unit.now)


def meanwhile(cloud: FleetCloud, days: float, *, step_days: float = 3.0) -> None:
    """The cloud's life: a CA rolled over at a half, the one before retired at three quarters, a release at the end."""
    began, rolled, retired = cloud.now, False, False
    renewed = began
    while cloud.now < began + days * DAY_S:
        cloud.now = min(cloud.now + step_days * DAY_S, began + days * DAY_S)
        trust.refresh(cloud.context)
        share = (cloud.now - began) / (days * DAY_S)
        if share >= 0.5 and not rolled:
            rolled = True
            rollover.begin(cloud.pki, now=cloud.now)
        if share >= 0.75 and not retired:
            retired = True
            rollover.retire(cloud.pki)
        if cloud.now - renewed > 300 * DAY_S:
            renewed = cloud.now
            new_roots(cloud)
        cloud.restart()
    cloud.release("2")


def test_the_ground_is_real(cloud: FleetCloud, device: Device):
    assert device.online
    assert image.TIMESTAMP_DAYS < 25
    codes = [hold.code for hold in status_of(device).holds if hold.code != "clock.wrong"]
    assert codes == []
    stranger = FleetCloud(cloud.context.settings.data / "stranger")
    assert device.identity is not None
    reason = stranger.link(device.identity, lambda: device.core.ctx.trusted_at(device.now))
    assert "verify failed" in reason or "unknown ca" in reason


@pytest.mark.parametrize("days", [25, 365, 3 * 365])
def test_a_device_that_ran_all_the_while(cloud: FleetCloud, device: Device, days: int):
    device.disconnect()
    cloud.https_up = False
    at = cloud.now
    device.run(HOUR_S)
    device._pass_to(
        device.now + days * DAY_S
    )  # asleep for the most of it: the clock of its boot goes on
    device.run(HOUR_S)
    assert device.answering() == "1"
    assert device.boots == 1
    codes = {hold.code for hold in status_of(device).holds}
    assert {"link.down", "metadata.expired"} <= codes
    assert ("identity.ended" in codes) == (days > 30)
    cloud.now, cloud.https_up = at + 2 * HOUR_S, True
    meanwhile(cloud, days)
    come_back(device, cloud)
    settled(device, cloud)


@pytest.mark.parametrize("wall", [IN_1970, IN_2099], ids=["1970", "2099"])
@pytest.mark.parametrize("days", [25, 365, 3 * 365])
def test_a_device_that_lay_without_power(cloud: FleetCloud, device: Device, days: int, wall: float):
    device.disconnect()
    floor = status_of(device).trusted_time
    meanwhile(cloud, days)
    device.now, device.wall = 5.0, wall
    device.boot()
    device.run(HOUR_S)
    assert device.answering() == "1", "it answers from the first minute, whatever the clock shows"
    assert status_of(device).trusted_time - floor < 2 * HOUR_S, "the local clock decides nothing"
    came = come_back(device, cloud)
    assert came < HOUR_S
    settled(device, cloud)
    device.boot()
    assert abs(status_of(device).trusted_time - cloud.now) < 2 * HOUR_S, (
        "the floor is the cloud's time"
    )


def status_of(device: Device) -> AgentStatus:
    device._handle(Tick())
    return device.core.status()


def settled(device: Device, cloud: FleetCloud) -> None:
    """Nothing of the absence is left."""
    device.run(HOUR_S)
    status = status_of(device)
    assert [hold.code for hold in status.holds if hold.code != "clock.wrong"] == []
    assert abs(status.trusted_time - cloud.now) < MINUTE_S
    assert status.certificate_expires > cloud.now
    assert device.identity is not None
    again = Identity(device.identity.folder.parent)
    assert again.certificate().expires == status.certificate_expires, "it is on the disk"
    told = cloud.pki.authorities().decode()
    assert again.load().authorities_pem == told


def test_without_https_too_it_waits_and_says_why(cloud: FleetCloud, device: Device):
    device.disconnect()
    meanwhile(cloud, 365)
    device.now, device.wall = 5.0, IN_1970
    device.boot()
    cloud.https_up = False
    for _ in range(20):
        assert "expired" in try_to_connect(device, cloud) or not device.online
        device.run(5 * MINUTE_S)
    holds = {hold.code: hold.text for hold in status_of(device).holds}
    assert "link.refused" in holds
    assert "no network" in holds["identity.renewal"]
    assert device.answering() == "1"
    cloud.https_up = True
    come_back(device, cloud, within_s=2 * HOUR_S)


def test_a_revoked_device_is_told_no_and_keeps_answering(cloud: FleetCloud, device: Device):
    device.disconnect()
    with cloud.context.unit() as unit:
        enrolment.revoke(unit, "d1", actor="test")
    for _ in range(30):
        try_to_connect(device, cloud)
        device.run(5 * MINUTE_S)
    assert not device.online
    assert device.answering() == "1"
    holds = {hold.code: hold.text for hold in status_of(device).holds}
    assert "revoked" in holds["link.refused"]
    assert "d1" in holds["identity.renewal"]


def test_a_connected_device_renews_at_two_thirds_and_follows_a_new_ca(
    cloud: FleetCloud, device: Device
):
    first = device.core.renewal.certificate
    device.run(19 * DAY_S)
    assert device.core.renewal.certificate == first
    device.run(2 * DAY_S)
    second = device.core.renewal.certificate
    assert second.expires > first.expires
    assert device.online
    rollover.begin(cloud.pki, now=cloud.now)
    cloud.restart()
    device.push("desired", trust.sealed_desired(cloud.context, "d1"))
    device.run(MINUTE_S)
    third = device.core.renewal.certificate
    assert third.authorities_sha256 != second.authorities_sha256, "both are trusted meanwhile"
    assert device.identity is not None
    assert device.identity.load().authorities_pem.count("BEGIN") == 2
    rollover.retire(cloud.pki)
    cloud.restart()
    device.disconnect()
    assert try_to_connect(device, cloud) == ""


def test_a_server_whose_certificate_has_ended_by_trusted_time_is_refused(
    cloud: FleetCloud, device: Device
):
    assert device.identity is not None
    later = cloud.now + 400 * DAY_S
    assert "the server's certificate ended" in cloud.link(device.identity, lambda: later)
