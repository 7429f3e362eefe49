"""What the cloud signs, judged by the code that devices judge it with."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from support.clouds import Cloud, enrol

from cloud.services import rollouts, trust
from cloud.services.cohorts import Cohort
from fleet.errors import SignatureError
from fleet.registry.errors import NotFoundError
from fleet.registry.repositories import Trust
from fleet.wire import codec, envelope
from fleet.wire.messages import Ack
from fleet.wire.topics import Down
from ota.errors import RollbackRefusedError
from ota.rollout.plan import RolloutSpec

DAY_S = 86_400.0


def roll_out(cloud: Cloud, release: str) -> None:
    spec = RolloutSpec(waves=[100.0], soak_s=0.0)
    rollouts.create(cloud.context, release=release, cohort=Cohort(), spec=spec, start=True, by="op")


def test_initialising_again_changes_nothing(cloud: Cloud) -> None:
    with cloud.context.read() as session:
        before = Trust(session).files("image"), Trust(session).files("director")
    trust.initialise(cloud.context)
    with cloud.context.read() as session:
        assert (Trust(session).files("image"), Trust(session).files("director")) == before


def test_a_device_without_a_model_gets_an_empty_assignment_once(cloud: Cloud) -> None:
    device = enrol(cloud, "a")
    device.connect()
    assert (device.counter, device.wanted) == (1, {})
    device.connect()
    device.fetch()
    assert device.counter == 1


def test_the_counter_grows_past_what_the_device_holds(cloud: Cloud) -> None:
    """A registry restored from a backup has forgotten assignments that devices still hold."""
    cloud.release()
    device = enrol(cloud, "a")
    device.connect(assignment_counter=41)
    assert device.counter == 42
    roll_out(cloud, "digits@1")
    device.fetch()
    assert (device.counter, set(device.wanted)) == (43, {"digits"})


def test_a_registry_restored_from_a_backup_is_followed(cloud: Cloud) -> None:
    """It counts up again to the counter that the device holds for other targets, and signs the next one.

    Its image repository has forgotten versions that the device has seen; the time has not stood still.
    """
    cloud.release()
    device = enrol(cloud, "a")
    device.connect()
    with closing(sqlite3.connect(":memory:")) as backup:
        database(cloud).backup(backup)
        cloud.clock.now += 60
        lost = cloud.release("2")
        roll_out(cloud, "digits@2")
        device.fetch()
        assert (device.counter, device.wanted) == (2, {"digits": lost["litert-cpu"]})
        backup.backup(database(cloud))
    cloud.clock.now += 60
    digests = cloud.release("3")
    roll_out(cloud, "digits@3")
    with pytest.raises(RollbackRefusedError, match="counter 2 stands for other targets"):
        device.fetch()
    device.connect()
    assert (device.counter, device.wanted) == (3, {"digits": digests["litert-cpu"]})
    device.connect()
    assert device.counter == 3, "it holds what was signed"


def database(cloud: Cloud) -> sqlite3.Connection:
    """The registry's own connection; all of a test's sessions share it."""
    with closing(cloud.context.engine.raw_connection()) as pooled:
        found = pooled.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found


def test_assignments_and_timestamps_are_signed_anew_in_time(cloud: Cloud) -> None:
    """Over a year a device that asks now and then never meets metadata that has expired."""
    cloud.release()
    device = enrol(cloud, "a")
    device.connect()
    roll_out(cloud, "digits@1")
    device.fetch()
    wanted = device.wanted
    counters = set()
    for _ in range(100):
        cloud.clock.now += 3 * DAY_S
        device.fetch()
        counters.add(device.counter)
        assert device.wanted == wanted
    assert 10 < len(counters) <= 100


def test_a_device_gets_two_models_in_one_assignment(cloud: Cloud) -> None:
    digests = {name: cloud.release(model=name)["litert-cpu"] for name in ("digits", "faces")}
    device = enrol(cloud, "a")
    device.connect()
    roll_out(cloud, "digits@1")
    roll_out(cloud, "faces@1")
    device.fetch()
    assert device.wanted == digests


def test_messages_are_bound_to_their_device_and_count_up(cloud: Cloud) -> None:
    device = enrol(cloud, "a")
    enrol(cloud, "b")
    device.connect()
    assert device.acceptance is not None
    keys = device.acceptance.message_keys
    payload = codec.to_json(Ack(device="a", acked={"e": [1]}))
    sealed = [trust.sealed(cloud.context, "a", Down.ACK, payload) for _ in range(3)]
    envelopes = [envelope.from_bytes(data) for data in sealed]
    counters = [each.counter for each in envelopes]
    assert counters == sorted(set(counters))
    assert counters[0] >= int(cloud.clock.now), "also after a restored backup"
    now = cloud.clock.now
    for each in envelopes:
        assert envelope.unseal(each, keys, kind="ack", device="a", now=now) == payload
        with pytest.raises(SignatureError):
            envelope.unseal(each, keys, kind="ack", device="b", now=now)
        with pytest.raises(SignatureError):
            envelope.unseal(each, keys, kind="cmd", device="a", now=now)
        with pytest.raises(SignatureError):
            envelope.unseal(each, keys, kind="ack", device="a", now=now + 2 * DAY_S)


def test_nobody_is_told_what_a_stranger_should_run(cloud: Cloud) -> None:
    with pytest.raises(NotFoundError):
        trust.desired_for(cloud.context, "ghost")
    with pytest.raises(NotFoundError):
        trust.sealed(cloud.context, "ghost", Down.ACK, b"{}")


def test_key_files_are_the_owners_alone(cloud: Cloud) -> None:
    folder = cloud.context.settings.data
    cloud.release()
    files = [*(folder / "keys").rglob("*.pem"), *(folder / "offline").rglob("*.pem")]
    assert len(files) >= 8
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
