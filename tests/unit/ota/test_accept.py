from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.verify import trust

pytestmark = pytest.mark.agent

PATH = "digits/1/litert-cpu.outrider"


def test_a_device_accepts_what_both_repositories_agree_on(house):
    house.release("digits", "1", floor="1")
    accepted = house.accept(house.assign(PATH))

    (target,) = accepted.targets
    assert (target.model, target.release, target.path) == ("digits", "1", PATH)
    assert target.length_bytes == 123_456
    assert target.block_size_bytes == 65_536
    assert target.hardware_classes == ["cpu-arm64", "cpu-x86-64"]
    assert target.security_floor == "1"
    assert accepted.counter == 1


def test_what_was_accepted_holds_again_at_boot_and_years_later(house):
    house.release("digits", "1")
    accepted = house.accept(house.assign(PATH))
    again = trust.installed(trust.from_bytes(trust.to_bytes(accepted.store)))
    assert again.targets == accepted.targets
    assert again.counter == accepted.counter
    assert again.message_keys.keys() == accepted.message_keys.keys()


def test_a_fresh_device_has_nothing_installed(house):
    nothing = trust.installed(house.store)
    assert (nothing.targets, nothing.counter, nothing.message_keys) == ((), 0, {})


def test_a_second_release_replaces_the_first_and_an_empty_assignment_ends_it(house):
    house.release("digits", "1")
    house.accept(house.assign(PATH))
    house.now += 60
    house.release("digits", "2")
    assert house.accept(house.assign("digits/2/litert-cpu.outrider")).targets[0].release == "2"
    assert house.accept(house.assign()).targets == ()
    assert trust.versions(house.store)["image/root.json"] == 1


def test_several_models_come_sorted(house):
    house.release("detector", "7")
    house.release("digits", "1")
    accepted = house.accept(house.assign(PATH, "detector/7/litert-cpu.outrider"))
    assert [target.model for target in accepted.targets] == ["detector", "digits"]


@given(
    st.dictionaries(st.text(max_size=10), st.binary(max_size=30), max_size=4),
    st.dictionaries(st.text(max_size=10), st.binary(max_size=30), max_size=4),
    st.integers(0, 2**53),
    st.floats(0, 2**40),
)
def test_a_store_survives_its_file(image, director, counter: int, floor: float):
    store = trust.TrustStore(image=image, director=director, counter=counter, time_floor=floor)
    assert trust.from_bytes(trust.to_bytes(store)) == store


def test_a_cloud_whose_clock_was_once_ahead_locks_nobody_out(house):
    house.release("digits", "1")
    house.now += 40 * 365 * 86_400
    ahead = house.director.assign("d1", "t1", 1, house.assigned(PATH), house.now)
    house.now -= 40 * 365 * 86_400
    house.accept(ahead)
    house.counter = 1
    assert house.accept(house.assign(PATH)).counter == 2


def test_activation_may_be_bounded(house):
    house.release("digits", "1")
    targets = house.assigned(PATH, activate_before=house.now + 99.5)
    (target,) = house.accept(house.director.assign("d1", "t1", 1, targets, house.now)).targets
    assert target.activate_before == house.now + 99
