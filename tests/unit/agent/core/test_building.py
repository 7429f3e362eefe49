"""A device that makes its own engine, through the real core, in virtual time."""

from __future__ import annotations

import pytest
from support.virtual_agent import Device, PowerCutError
from support.virtual_cloud import Cloud

from agent.core import commands as cmd
from agent.core import events as ev
from agent.core.states import State

pytestmark = pytest.mark.agent


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def assign(cloud: Cloud, device: Device, release: str, behaviour: str) -> None:
    cloud.assign(cloud.release("digits", release, behaviour))
    device.push("desired", cloud.desired())


def started(cloud: Cloud, *, release: str = "1", behaviour: str = "good") -> Device:
    """A connected device on which a first release is committed."""
    device = Device(cloud)
    cloud.assign(cloud.release("digits", release, behaviour))
    device.connect()
    device.run(90)
    assert device.answering() == release
    return device


def states(cloud: Cloud, counter: int) -> list[str]:
    found = [r.state for r in cloud.reports if r.assignment_counter == counter]
    return [state for i, state in enumerate(found) if i == 0 or found[i - 1] != state]


def codes(cloud: Cloud) -> list[str]:
    return [event.code for event in cloud.events if event.code.startswith("engine.")]


def builds(device: Device) -> int:
    return sum(isinstance(command, cmd.Build) for command in device.log)


def test_an_engine_is_built_between_staged_and_the_self_test(cloud: Cloud):
    device = started(cloud, behaviour="build")
    assert states(cloud, 2) == [
        "waiting", "fetching", "staged", "building", "self_testing", "activating", "probation", "committed"
    ]  # fmt: skip
    active = device.model().active
    assert active.engine == device.disk.engines[active.sha256]
    assert 0.5 in [r.progress for r in cloud.reports if r.state == "building"]
    (event,) = [e for e in cloud.events if e.code == "engine.built"]
    assert active.engine in event.text
    starts = [c for c in device.log if isinstance(c, cmd.StartWorker)]
    assert [c.engine for c in starts] == [active.engine]


def test_what_answers_goes_on_while_an_engine_is_built(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build")
    seen = set()
    for _ in range(900):
        device.run(0.1)
        seen.add(device.model().state)
        assert device.answering() in {"1", "2"}
    assert State.BUILDING in seen
    assert device.answering() == "2"


def test_a_build_that_fails_rolls_back(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build_fails")
    device.run(120)
    assert device.model().state is State.FAILED
    assert device.answering() == "1"
    assert cloud.reports[-1].error_code == "build.failed"
    assert builds(device) == 1


def test_too_little_memory_is_tried_again_a_few_times(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build_hungry")
    device.run(60)
    assert device.model().state is State.STAGED
    assert device.model().error_code == "build.memory"
    device.run(1000)
    assert device.model().state is State.FAILED
    assert cloud.reports[-1].error_code == "build.memory"
    assert builds(device) == 3


def test_an_answer_that_never_comes_has_a_deadline(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build_never")
    device.run(7000)
    assert device.model().state is State.BUILDING
    device.run(400)
    assert device.model().state is State.FAILED
    assert cloud.reports[-1].error_code == "build.lost"
    assert not device.builds, "it was cancelled"


@pytest.mark.parametrize("newer", ["good", "build"])
def test_a_newer_assignment_cancels_a_build(cloud: Cloud, newer: str):
    device = started(cloud)
    assign(cloud, device, "2", "build_never")
    device.run(30)
    assert device.model().state is State.BUILDING
    assign(cloud, device, "3", newer)
    device.run(0.5)
    assert any(isinstance(command, cmd.CancelBuild) for command in device.log)
    device.run(120)
    assert device.answering() == "3"
    superseded = [r for r in cloud.reports if r.error_code == "agent.superseded"]
    assert {r.state for r in superseded} == {"rolling_back", "failed"}


def test_a_withdrawn_model_is_not_built(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build_never")
    device.run(30)
    cloud.assign()
    device.push("desired", cloud.desired())
    device.run(10)
    assert device.model().state is State.IDLE
    assert not device.builds


def test_a_restart_while_building_builds_again(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build")
    device.run(8)
    assert device.model().state is State.BUILDING
    device.boot()
    device.run(90)
    assert device.answering() == "2"
    assert builds(device) == 2


def test_restarts_without_end_are_broken(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build_never")
    for _ in range(40):
        device.run(8)
        device.boot()
    device.run(200)
    assert device.model().state is State.FAILED
    assert device.model().error_code == "agent.loop"
    assert device.answering() == "1"


def test_power_cuts_at_each_command_of_a_build(cloud: Cloud):
    device = started(cloud)
    release = 2
    for commands in range(14):
        device.power = commands
        try:
            assign(cloud, device, str(release), "build")
            device.run(60)
        except PowerCutError:
            pass
        device.power = None
        device.boot()
        device.connect()
        device.survive(200)
        assert device.answering() == str(release), commands
        release += 1


def test_only_one_model_builds_at_a_time(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1", "build"), cloud.release("letters", "7", "build"))
    device.connect()
    device.run(200)  # the virtual shell asserts that there are never two
    assert (device.answering("digits"), device.answering("letters")) == ("1", "7")


def test_a_stopping_daemon_ends_the_build(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build_never")
    device.run(30)
    device._handle(ev.Stopping())
    assert not device.builds


# --- an upgraded system --------------------------------------------------------------------------------


def test_an_engine_that_no_longer_fits_is_built_anew_without_the_cloud(cloud: Cloud):
    device = started(cloud, behaviour="build")
    before = device.model().active.engine
    device.upgraded = True
    device.boot()
    device.upgraded = False
    assert device.answering() == ""
    device.run(90)
    assert device.answering() == "1"
    assert device.model().state is State.COMMITTED
    assert device.model().active.engine != before
    assert not device.online
    device.connect()
    device.run(5)
    assert codes(cloud)[-2:] == ["engine.outdated", "engine.built"]
    said = [r.state for r in cloud.reports if r.assignment_counter == 2]
    assert set(said[said.index("committed") :]) == {"committed"}, "an end is never taken back"


def test_the_release_before_it_answers_until_then(cloud: Cloud):
    device = started(cloud)
    assign(cloud, device, "2", "build")
    device.run(90)
    assert device.answering() == "2"
    device.upgraded = True
    device.boot()
    device.run(10)
    assert device.answering() == "1"
    device.upgraded = False
    device.run(90)
    assert device.answering() == "2"


def test_after_a_failed_update_too_what_was_active_is_built_anew(cloud: Cloud):
    device = started(cloud, behaviour="build")
    assign(cloud, device, "2", "wrong")
    device.run(60)
    assert device.model().state is State.FAILED
    device.upgraded = True
    device.boot()
    device.upgraded = False
    device.run(300)
    assert device.answering() == "1"
    assert device.model().state is State.FAILED, (
        "the failed release was tried once more, and failed"
    )


def test_an_engine_that_cannot_be_built_anew_is_said(cloud: Cloud):
    device = started(cloud, behaviour="build")
    device.upgraded, device.build_fails = True, "build.failed"
    device.boot()
    device.run(60)
    assert device.answering() == ""
    assert device.model().state is State.FAILED
    assert device.model().error_code == "build.failed"
    device.upgraded, device.build_fails = False, ""
    device.connect()
    assign(cloud, device, "2", "build")
    device.run(90)
    assert device.answering() == "2"
