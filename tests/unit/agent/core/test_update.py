"""A device's whole update through the real core, in virtual time."""

from __future__ import annotations

import msgspec
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


def with_release(cloud: Cloud, release: str = "1", behaviour: str = "good") -> Device:
    """A connected device on which a first release is committed."""
    device = Device(cloud)
    cloud.assign(cloud.release("digits", release, behaviour))
    device.connect()
    device.run(60)
    return device


def states(cloud: Cloud, counter: int) -> list[str]:
    found = [r.state for r in cloud.reports if r.assignment_counter == counter]
    return [state for i, state in enumerate(found) if i == 0 or found[i - 1] != state]


def test_an_assignment_becomes_a_committed_release(cloud: Cloud):
    device = with_release(cloud)
    assert device.model().state is State.COMMITTED
    assert device.answering() == "1"
    assert states(cloud, 2) == [
        "waiting", "fetching", "staged", "self_testing", "activating", "probation", "committed"
    ]  # fmt: skip
    committed = cloud.reports[-1]
    assert committed.terminal
    assert committed.figures["good_answers"] >= 3


def test_every_step_is_saved_before_its_effect(cloud: Cloud):
    device = with_release(cloud)
    saved = {
        c.record.state: i
        for i, c in reversed(list(enumerate(device.log)))
        if isinstance(c, cmd.SaveModel)
    }
    effects = {type(c).__name__: i for i, c in reversed(list(enumerate(device.log)))}
    assert saved[State.SELF_TESTING] < effects["StartWorker"]
    assert saved[State.ACTIVATING] < effects["Promote"]
    first_write = effects["WriteBlock"]
    assert saved[State.FETCHING] < first_write < effects["SaveBitmap"] < effects["Stage"]


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("wrong", "agent.self_test"),
        ("broken", "runtime.load"),
        ("crash", "serving.worker_lost"),
        ("faulty", "agent.probation"),
        ("stuck", "serving.worker_lost"),
    ],
)
def test_a_bad_release_rolls_back_and_what_was_active_answers(
    cloud: Cloud, behaviour: str, code: str
):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2", behaviour))
    device.push("desired", cloud.desired())
    device.run(400)
    assert device.model().state is State.FAILED
    assert device.answering() == "1"
    assert cloud.reports[-1].error_code == code
    assert cloud.reports[-1].release == "2"
    assert states(cloud, 3)[-2:] == ["rolling_back", "failed"]


def test_somebody_always_answers_during_an_update(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    for _ in range(600):
        device.run(0.1)
        assert device.answering() in {"1", "2"}
    assert device.model().state is State.COMMITTED
    assert device.answering() == "2"


def test_a_failed_release_is_not_tried_again_until_it_is_assigned_again(cloud: Cloud):
    device = with_release(cloud)
    path = cloud.release("digits", "2", "wrong")
    cloud.assign(path)
    device.push("desired", cloud.desired())
    device.run(100)
    reports = len(cloud.reports)
    device.push("desired", cloud.desired())
    device.run(100)
    assert len(cloud.reports) == reports
    cloud.assign(path)
    device.push("desired", cloud.desired())
    device.run(100)
    assert states(cloud, 4)[-1] == "failed"


def test_going_back_to_the_release_before_needs_no_transfer(cloud: Cloud):
    device = with_release(cloud)
    one = "digits/1/cpu.outrider"
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.answering() == "2"
    device.log.clear()
    cloud.assign(one)
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.answering() == "1"
    assert not any(isinstance(c, cmd.WriteBlock) for c in device.log)
    assert "fetching" not in states(cloud, 4)


def test_an_assignment_of_what_is_active_is_confirmed_at_once(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign("digits/1/cpu.outrider")
    device.push("desired", cloud.desired())
    device.run(5)
    assert states(cloud, 3) == ["committed"]


def test_a_newer_assignment_supersedes_one_that_is_under_way(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2", "silent"))
    device.push("desired", cloud.desired())
    device.run(10)
    assert device.model().state is State.PROBATION
    cloud.assign(cloud.release("digits", "3"))
    device.push("desired", cloud.desired())
    device.run(60)
    assert device.answering() == "3"
    superseded = [r for r in cloud.reports if r.error_code == "agent.superseded"]
    assert {r.state for r in superseded} == {"rolling_back", "failed"}


def test_a_withdrawn_model_is_stopped(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign()
    device.push("desired", cloud.desired())
    device.run(10)
    assert device.model().state is State.IDLE
    assert device.answering() == ""
    assert not device.workers


def test_a_candidate_that_nobody_asks_is_judged_by_its_golden_vectors(cloud: Cloud):
    device = Device(cloud)
    device.traffic = False
    cloud.assign(cloud.release("digits", "1"))
    device.connect()
    device.run(100)
    assert device.model().state is State.COMMITTED
    assert "golden_cosine_min" in cloud.reports[-1].figures


@pytest.mark.parametrize(
    "changes", [{"hardware_classes": ["jetson"]}, {"runtime": "tensorrt"}], ids=str
)
def test_what_this_device_cannot_run_is_said_before_it_is_fetched(cloud: Cloud, changes: dict):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1", **changes))
    device.connect()
    device.run(10)
    assert device.model().state is State.INCOMPATIBLE
    assert cloud.reports[-1].terminal
    assert not any(isinstance(c, cmd.Prepare) for c in device.log)


def test_an_artifact_that_is_another_than_it_says_is_refused(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1", runtime="onnxruntime"))
    device.connect()
    device.run(30)
    assert device.model().state is State.REFUSED
    assert cloud.reports[-1].error_code == "agent.content"


def test_an_activation_that_comes_too_late_is_refused(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"), activate_before=int(cloud.now) + 60)
    device.connect()
    device.disconnect()
    device.run(30)
    assert device.model().state is not State.REFUSED if "digits" in device.core.machines else True
    device.run(60)
    device.connect()
    device.run(30)
    assert device.model().state is State.REFUSED
    assert cloud.reports[-1].error_code == "agent.late"


def test_two_models_never_try_candidates_at_the_same_time(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"), cloud.release("letters", "7"))
    device.connect()
    for _ in range(600):
        device.run(0.1)
        heavy = [m for m in device.core.machines.values() if m.heavy]
        assert len(heavy) <= 1
    assert (device.answering("digits"), device.answering("letters")) == ("1", "7")


def test_the_device_answers_with_no_network_after_a_restart(cloud: Cloud):
    device = with_release(cloud)
    device.boot()
    device.run(5)
    assert device.answering() == "1"


def test_a_crashed_worker_comes_back_with_growing_pauses(cloud: Cloud):
    device = with_release(cloud)
    for _ in range(3):
        device.crash(next(iter(device.workers)))
        assert device.answering() == ""
        device.run(20)
        assert device.answering() == "1"
    assert device.model().state is State.COMMITTED


def test_a_damaged_slot_is_never_run_and_is_fetched_again(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    device.run(60)
    slot = device.model().active.slot
    device.disk.slots["digits"][slot] = b"good but other bytes"
    device.boot()
    device.run(5)
    assert device.answering() == "1", "the release before it answers meanwhile"
    device.connect()
    device.run(60)
    assert device.answering() == "2"
    assert [e.code for e in cloud.events if e.code.startswith("slot.")] == ["slot.damaged"]


def test_a_slot_that_is_damaged_while_running_is_noticed_when_it_is_loaded(cloud: Cloud):
    device = with_release(cloud)
    device.disk.slots["digits"][device.model().active.slot] = b"other"
    worker = next(iter(device.workers))
    device.check = lambda: None  # the invariant is what this test breaks
    device.crash(worker)
    device.run(60)
    assert device.answering() == "1"
    assert device.disk.slots["digits"][device.model().active.slot] != b"other"


def test_a_restart_in_every_heavy_state_tries_again(cloud: Cloud):
    for state in (State.SELF_TESTING, State.ACTIVATING, State.PROBATION, State.ROLLING_BACK):
        cloud = Cloud()
        device = with_release(cloud)
        record = device.model()
        cloud.assign(cloud.release("digits", "2", "silent" if state is State.PROBATION else "good"))
        device.push("desired", cloud.desired())
        for _ in range(10_000):
            if device.disk.models["digits"].state is state:
                break
            device.run(0.01)
        else:
            assert state is State.ROLLING_BACK
            continue
        device.boot()
        device.connect()
        device.run(120)
        assert device.model().state is State.COMMITTED, state
        assert device.answering() == "2"
        assert record.active is not None


def test_a_reboot_loop_is_broken(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    boots = 0
    while device.disk.models["digits"].state not in {State.FAILED, State.COMMITTED}:
        while device.disk.models["digits"].state not in {
            State.SELF_TESTING, State.FAILED, State.COMMITTED
        }:  # fmt: skip
            device.run(0.1)
        if device.disk.models["digits"].state is State.SELF_TESTING:
            device.boot()
            device.connect()
            boots += 1
        assert boots < 30
    device.run(30)
    assert device.model().state is State.FAILED
    assert cloud.reports[-1].error_code == "agent.loop"
    assert device.answering() == "1"
    assert 3 <= boots <= 12


def test_power_cut_at_every_single_command_of_an_update(cloud: Cloud):
    """As MCUboot's simulator does it: cut, start again, and all must be as if nothing had happened."""
    clean = with_release(cloud)
    clean.carried = 0
    cloud.assign(cloud.release("digits", "2"))
    clean.push("desired", cloud.desired())
    clean.run(60)
    assert clean.answering() == "2"
    for cut in range(clean.carried):
        cloud = Cloud()
        device = with_release(cloud)
        cloud.assign(cloud.release("digits", "2"))
        device.power = cut
        try:
            device.push("desired", cloud.desired())
        except PowerCutError:
            device.power = None
            device.boot()
            device.connect()
        device.survive(150)
        device.power = None
        assert device.model().state is State.COMMITTED, cut
        assert device.answering() == "2", cut
        ends = [r for r in cloud.reports if r.terminal and r.assignment_counter == 3]
        assert ends, cut
        assert {r.state for r in ends} == {"committed"}, cut


def test_the_disk_refuses_and_recovers(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2"))
    device.disk_fails = "disk.full"
    device.push("desired", cloud.desired())
    device.run(100)
    assert device.answering() == "1"
    assert device.disk.models["digits"].active.release == "1"
    assert "disk.full" in {event.code for event in cloud.events}
    device.disk_fails = ""
    cloud.assign("digits/2/cpu.outrider")
    device.push("desired", cloud.desired())
    device.run(900)
    assert device.answering() == "2"


@pytest.mark.parametrize("state", [State.SELF_TESTING, State.ACTIVATING, State.PROBATION])
def test_a_disk_that_fails_in_a_heavy_state_costs_the_candidate_at_most(cloud: Cloud, state: State):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    while device.model().state is not state:
        device.run(0.004)
    device.disk_fails = "disk.io"
    for _ in range(400):
        device.run(1.0)
        assert device.answering() in {"1", "2"}
    device.disk_fails = ""
    device.run(200)
    assert device.answering() in {"1", "2"}
    assert device.disk.models["digits"] == device.model()
    device.boot()
    device.run(5)
    assert device.answering() == device.disk.models["digits"].active.release


def test_lost_messages_only_cost_time(cloud: Cloud):
    device = Device(cloud)
    device.lose = 3
    cloud.assign(cloud.release("digits", "1"))
    device.connect()
    for _ in range(10):
        device.run(60)
        if "digits" in device.core.machines:
            break
        device.disconnect()
        device.connect()
    device.run(600)
    assert device.answering() == "1"
    device.lose = 0
    device.run(300)
    assert not [r for r in device.disk.rows if r.kind == "reported"]


def test_a_download_goes_on_where_the_power_cut_left_it(cloud: Cloud):
    device = Device(cloud)
    cloud.assign(cloud.release("digits", "1"))
    device.connect()
    while not any(isinstance(c, cmd.SaveBitmap) for c in device.log):
        device.run(0.01)
    first = sum(isinstance(c, cmd.WriteBlock) for c in device.log)
    device.boot()
    device.connect()
    device.run(60)
    assert sum(isinstance(c, cmd.WriteBlock) for c in device.log) == max(first, 4)
    assert device.answering() == "1"


def test_stopping_ends_every_worker_and_keeps_the_last_figures(cloud: Cloud):
    from agent.core.events import Stopping

    device = with_release(cloud)
    device.disconnect()
    device.run(7)
    device._handle(Stopping())
    device.run(1)
    assert device.core.stopped
    assert not device.workers
    rows = [r for r in device.disk.rows if r.kind == "telemetry"]
    assert rows
    assert msgspec.msgpack.decode(rows[-1].payload)["inferences"] > 0


def test_after_a_restart_an_incumbent_that_comes_up_after_its_candidate_rests(cloud: Cloud):
    device = Device(cloud, good_answers=20)
    cloud.assign(cloud.release("digits", "1"))
    device.connect()
    device.run(60)
    cloud.assign(cloud.release("digits", "2"))
    device.push("desired", cloud.desired())
    while device.model().state is not State.SELF_TESTING:
        device.run(0.1)
    real, slow = device._post, []

    def slow_to_load(event, after=0.01):
        if isinstance(event, ev.WorkerReady) and not slow:
            slow.append(event.worker)
            after = 5.0
        real(event, after)

    device._post = slow_to_load
    device.boot()
    overlapping = 0
    for _ in range(600):
        device.run(0.1)
        serving = [worker for worker, known in device.workers.items() if known["serving"]]
        overlapping += len(serving) > 1
    assert slow
    assert overlapping <= 1
    assert device.model().state is State.COMMITTED
    assert device.answering() == "2"


def test_an_artifact_that_nobody_vouches_for_is_refused_once_and_for_all(cloud: Cloud):
    device = with_release(cloud)
    cloud.assign(cloud.release("digits", "2", attested_by=["unattested"]))
    device.push("desired", cloud.desired())
    device.run(600)
    assert states(cloud, cloud.counter) == ["waiting", "fetching", "refused"]
    assert cloud.reports[-1].error_code == "ota.unattested"
    staged = [c for c in device.log if isinstance(c, cmd.Stage) and c.attested_by != ["builder"]]
    assert len(staged) == 1, "fetching it again would be no use"
    assert device.answering() == "1"
