"""What a device does with a candidate that it is to prove: it measures, tells, and lets nobody be answered by it."""

from __future__ import annotations

import pytest
from support.virtual_agent import Device, PowerCutError
from support.virtual_cloud import DEVICE, Cloud, content

from agent.core import commands as cmd
from agent.core.states import State

pytestmark = pytest.mark.agent

FIGURES = {"golden_cosine_min", "golden_max_abs", "latency_ms_p50", "latency_ms_p95", "peak_memory_mib"}  # fmt: skip


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


def serving(cloud: Cloud) -> Device:
    """A connected device on which release 1 answers."""
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"))
    device.connect()
    device.run(60)
    return device


def candidate(cloud: Cloud, behaviour: str = "good", *, device: str = DEVICE) -> str:
    return cloud.release("digits", "2-candidate.x", behaviour, candidate_for=device)


def ends(cloud: Cloud, counter: int) -> list[tuple[str, str]]:
    return [(r.state, r.release) for r in cloud.reports if r.terminal and r.assignment_counter == counter]  # fmt: skip


def test_a_candidate_is_measured_and_never_answers(cloud: Cloud):
    device = serving(cloud)
    device.log.clear()
    cloud.assign(candidate(cloud))
    device.push("desired", cloud.desired())
    for _ in range(600):
        device.run(0.1)
        assert device.answering() == "1"
    assert device.model().state is State.MEASURED
    assert not any(isinstance(command, cmd.Promote) for command in device.log)
    assert len(device.workers) == 1
    assert ends(cloud, 3) == [("measured", "2-candidate.x")]
    assert set(cloud.reports[-1].figures) == FIGURES


def test_what_ran_before_is_confirmed_without_a_transfer(cloud: Cloud):
    device = serving(cloud)
    cloud.assign(candidate(cloud))
    device.push("desired", cloud.desired())
    device.run(60)
    device.log.clear()
    cloud.assign("digits/1/cpu.outrider")
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.model().state is State.COMMITTED
    assert not any(isinstance(command, cmd.Prepare | cmd.Promote) for command in device.log)
    assert ends(cloud, 4) == [("committed", "1")]


def test_a_device_without_the_model_ends_as_it_began(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(candidate(cloud))
    device.connect()
    device.run(60)
    assert device.model().state is State.MEASURED
    assert device.answering() == ""
    cloud.assign()
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.model().state is State.IDLE
    assert device.workers == {}


@pytest.mark.parametrize("behaviour", ["wrong", "broken", "stuck"])
def test_a_bad_candidate_fails_with_what_was_measured(cloud: Cloud, behaviour: str):
    device = serving(cloud)
    cloud.assign(candidate(cloud, behaviour))
    device.push("desired", cloud.desired())
    device.run(400)
    assert ends(cloud, 3) == [("failed", "2-candidate.x")]
    assert device.answering() == "1"
    if behaviour == "wrong":
        assert cloud.reports[-1].figures["golden_cosine_min"] == 0.1


def test_a_candidate_for_another_device_is_refused_before_a_byte_is_fetched(cloud: Cloud):
    device = serving(cloud)
    device.log.clear()
    cloud.assign(candidate(cloud, device="d2"))
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.core.trust.acceptance.counter == 2
    assert not any(isinstance(command, cmd.Prepare) for command in device.log)
    assert any(e.code == "ota.wrong_device" and "'d2' alone" in e.text for e in cloud.events)


def test_a_candidate_that_is_released_while_it_is_tried_is_activated(cloud: Cloud):
    device = serving(cloud)
    cloud.assign(candidate(cloud))
    device.push("desired", cloud.desired())
    while device.model().state is not State.SELF_TESTING:
        device.run(0.01)
    released = cloud.release("digits", "2", data=content("digits", "2-candidate.x", "good"))
    cloud.assign(released)
    device.push("desired", cloud.desired())
    device.run(100)
    assert device.model().state is State.COMMITTED
    assert device.answering() == "2"


def test_power_cut_at_every_single_command_of_a_trial(cloud: Cloud):
    clean = serving(cloud)
    clean.carried = 0
    cloud.assign(candidate(cloud))
    clean.push("desired", cloud.desired())
    clean.run(60)
    for cut in range(clean.carried):
        cloud = Cloud()
        device = serving(cloud)
        cloud.assign(candidate(cloud))
        device.power = cut
        try:
            device.push("desired", cloud.desired())
        except PowerCutError:
            device.power = None
            device.boot()
            device.connect()
        device.survive(150)
        device.power = None
        assert device.answering() == "1", cut
        assert {state for state, _ in ends(cloud, 3)} == {"measured"}, cut
        told = [r for r in cloud.reports if r.terminal and r.assignment_counter == 3]
        assert all(set(r.figures) == FIGURES for r in told), cut
