from __future__ import annotations

import json
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.errors import UnlistedTransitionError
from ota.errors import RolloutError
from ota.rollout import plan, waves
from ota.rollout.machine import deadline, step
from ota.rollout.plan import (
    Abort,
    Approve,
    Assign,
    DeviceOffline,
    DeviceOnline,
    DeviceReported,
    Outcome,
    Pause,
    Restore,
    Resume,
    Rollback,
    RolloutSpec,
    RolloutState,
    Start,
    Submit,
    Tick,
)
from ota.rollout.tables import ENDED, DeviceStatus, RolloutStatus, WaveStatus

SPEC = RolloutSpec(waves=[34, 100], soak_s=10, wave_timeout_s=1_000, offline_grace_s=30)


class Run:
    """Drives a rollout and keeps what it ordered."""

    def __init__(self, spec: RolloutSpec = SPEC, *, online: str = "abc", offline: str = "") -> None:
        self.now = 1_000.0
        cohort = dict.fromkeys(online, True) | dict.fromkeys(offline, False)
        self.state = plan.create(spec, cohort, now=self.now)
        self.commands: list[plan.Command] = []

    def __call__(self, event: plan.Event, *, after: float = 0.0) -> list[plan.Command]:
        self.now += after
        self.state, commands = step(self.state, event, self.now)
        self.commands += commands
        return commands

    def report(self, device: str, outcome: Outcome = Outcome.COMMITTED, **more):
        return self(DeviceReported(device=device, outcome=outcome, **more), after=1)

    def tick(self) -> list[plan.Command]:
        due = deadline(self.state)
        assert due is not None
        return self(Tick(), after=max(0.0, due - self.now))

    def statuses(self) -> str:
        return " ".join(d.status.value for d in self.state.devices.values())

    @property
    def wave(self) -> WaveStatus:
        return self.state.waves[self.state.wave].status


def assigned(commands) -> str:
    return "".join(c.device for c in commands if isinstance(c, Assign))


def restored(commands) -> str:
    return "".join(c.device for c in commands if isinstance(c, Restore))


def test_a_rollout_goes_through_its_waves():
    run = Run()
    assert assigned(run(Start())) == "a"
    run.report("a")
    assert run.wave is WaveStatus.SOAKING
    assert assigned(run.tick()) == "bc"
    run.report("b")
    assert run.wave is WaveStatus.RUNNING
    run.report("c")
    run.tick()
    assert run.state.status is RolloutStatus.SUCCEEDED
    assert [w.status for w in run.state.waves] == [WaveStatus.PASSED] * 2
    assert deadline(run.state) is None


def test_one_failure_pauses_a_small_fleet_and_says_why():
    run = Run()
    run(Start())
    assert run.report("a", Outcome.FAILED, error="agent.self_test") == []
    assert run.state.status is RolloutStatus.PAUSED
    assert run.wave is WaveStatus.FAILED
    assert "1 of 3 devices failed: a (agent.self_test)" in run.state.reason
    assert run(Tick(), after=9_999) == []


def test_a_failure_while_soaking_pauses_too():
    run = Run(RolloutSpec(waves=[67, 100], soak_s=10, max_failures=1, wave_timeout_s=100))
    assert assigned(run(Start())) == "ab"
    run.report("a")
    run(Tick(), after=100)
    assert run.wave is WaveStatus.SOAKING
    run.report("b", Outcome.FAILED)
    assert run.state.status is RolloutStatus.PAUSED


def test_rollback_restores_every_device_that_was_touched():
    run = Run()
    run(Start())
    run.report("a")
    run.tick()
    run.report("b", Outcome.FAILED)
    assert restored(run(Rollback())) == "abc"
    assert run.state.status is RolloutStatus.ROLLED_BACK
    assert run.statuses() == "restored restored restored"


def test_rollback_leaves_alone_what_was_never_assigned():
    run = Run()
    run(Start())
    run.report("a", Outcome.FAILED)
    assert restored(run(Rollback())) == "a"
    assert run.statuses() == "restored pending pending"


def test_abort_takes_back_only_what_is_not_committed():
    run = Run(RolloutSpec(waves=[100], soak_s=10))
    assert assigned(run(Start())) == "abc"
    run.report("a")
    assert restored(run(Abort())) == "bc"
    assert run.state.status is RolloutStatus.ABORTED
    assert restored(run(Rollback())) == "a"


def test_a_finished_rollout_can_be_rolled_back():
    run = Run(RolloutSpec(waves=[100], soak_s=0), online="a")
    run(Start())
    run.report("a")
    assert run.state.status is RolloutStatus.SUCCEEDED
    assert restored(run(Rollback())) == "a"


def test_paused_it_assigns_nothing_and_its_clocks_stand_still():
    run = Run()
    run(Start())
    run.report("a")
    run(Pause(), after=4)
    assert deadline(run.state) is None
    assert run(Tick(), after=10_000) == []
    assert run(Resume()) == []
    assert run.wave is WaveStatus.SOAKING
    assert deadline(run.state) == pytest.approx(run.now + 6)
    assert assigned(run.tick()) == "bc"


def test_resuming_accepts_the_failures_so_far_but_not_the_next():
    run = Run(online="abcd")
    run(Start())
    run.report("a", Outcome.FAILED)
    run(Resume())
    assert assigned(run.tick()) == "bcd"
    run.report("b")
    assert run.state.status is RolloutStatus.RUNNING
    run.report("c", Outcome.REFUSED)
    assert run.state.status is RolloutStatus.PAUSED


def test_waves_take_devices_that_are_online_and_offline_ones_join_later():
    run = Run(RolloutSpec(waves=[50, 100], soak_s=0), online="cd", offline="ab")
    assert assigned(run(Start())) == "cd"
    run.report("c")
    assert assigned(run.report("d")) == "ab"
    assert run.state.status is RolloutStatus.SUCCEEDED
    run.report("a")
    assert run.statuses() == "committed committed committed assigned"


def test_a_device_that_goes_offline_holds_its_wave_for_the_grace_only():
    run = Run(RolloutSpec(waves=[100], soak_s=0, offline_grace_s=30))
    run(Start())
    run.report("a")
    run.report("b")
    run(DeviceOffline(device="c"))
    assert run.state.status is RolloutStatus.RUNNING
    run(DeviceOffline(device="c"), after=29)
    assert run.state.status is RolloutStatus.RUNNING
    run.tick()
    assert run.state.status is RolloutStatus.SUCCEEDED


def test_a_short_interruption_does_not_end_a_wave():
    run = Run(RolloutSpec(waves=[100], soak_s=0))
    run(Start())
    run.report("a")
    for device in "abc":
        run(DeviceOffline(device=device))
    for device in "abc":
        run(DeviceOnline(device=device), after=5)
    assert run.state.status is RolloutStatus.RUNNING
    run.report("b")
    run.report("c")
    assert run.state.status is RolloutStatus.SUCCEEDED


def test_a_late_device_leaves_its_place_to_another():
    run = Run(online="abc")
    assert assigned(run(Start())) == "a"
    run(DeviceOffline(device="a"))
    assert assigned(run.tick()) == "b"
    run.report("b")
    assert run.wave is WaveStatus.SOAKING


def test_with_nobody_online_it_waits():
    run = Run(online="", offline="abc")
    assert run(Start()) == []
    assert deadline(run.state) is None
    assert run(Tick(), after=99_999) == []
    assert assigned(run(DeviceOnline(device="b"))) == "b"


def test_silent_devices_become_stale_and_hold_nothing():
    run = Run(RolloutSpec(waves=[67, 100], soak_s=0, wave_timeout_s=100))
    assert assigned(run(Start())) == "ab"
    run.report("a")
    assert assigned(run.tick()) == "c"
    assert run.statuses() == "committed stale assigned"
    run.report("b")
    run.report("c")
    assert run.statuses() == "committed committed committed"
    assert run.state.status is RolloutStatus.SUCCEEDED


def test_a_wave_of_silence_is_inconclusive_and_asks():
    run = Run()
    run(Start())
    run.tick()
    run.tick()
    assert run.wave is WaveStatus.INCONCLUSIVE
    assert run.state.status is RolloutStatus.PAUSED
    assert "no device has committed" in run.state.reason
    assert assigned(run(Resume())) == "bc"


def test_incompatible_devices_are_in_no_denominator():
    run = Run(RolloutSpec(waves=[50, 100], soak_s=0), online="abcd")
    assert assigned(run(Start())) == "ab"
    assert assigned(run.report("a", Outcome.INCOMPATIBLE)) == ""
    assert assigned(run.report("b")) == "cd"
    run.report("c", Outcome.INCOMPATIBLE)
    run.report("d")
    assert run.state.status is RolloutStatus.SUCCEEDED


def test_devices_that_are_all_incompatible_leave_it_inconclusive():
    run = Run(RolloutSpec(waves=[100], soak_s=5))
    run(Start())
    for device in "abc":
        run.report(device, Outcome.INCOMPATIBLE)
    if run.state.status is RolloutStatus.RUNNING:
        run.tick()
    assert run.state.status is RolloutStatus.PAUSED
    assert run.wave is WaveStatus.INCONCLUSIVE


def test_a_terminal_report_never_regresses():
    run = Run()
    run(Start())
    run.report("a")
    run.report("a", Outcome.FAILED)
    run.report("nobody", Outcome.FAILED)
    run.report("b", Outcome.FAILED)
    assert run.statuses() == "committed pending pending"
    assert run.state.status is RolloutStatus.RUNNING


def test_approval_takes_two_people_and_a_schedule_waits():
    run = Run(RolloutSpec(waves=[100], approval=True, start_at=5_000.0))
    with pytest.raises(RolloutError, match="approval"):
        run(Start())
    run(Submit(by="ada"))
    with pytest.raises(RolloutError, match="another person"):
        run(Approve(by="ada"))
    assert run(Approve(by="grace")) == []
    assert run.state.status is RolloutStatus.SCHEDULED
    assert run(Tick()) == []
    assert assigned(run.tick()) == "abc"
    assert run.now == 5_000.0


@pytest.mark.parametrize("event", [Pause(), Resume(), Rollback(), Approve(by="x")])
def test_orders_that_do_not_fit_are_refused_with_words(event):
    with pytest.raises(UnlistedTransitionError, match="in state 'draft' expected one of"):
        Run()(event)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"waves": []}, "waves"),
        ({"waves": [50, 40, 100]}, "waves"),
        ({"waves": [50]}, "waves"),
        ({"waves": [0, 100]}, "waves"),
        ({"soak_s": -1.0}, "soak_s"),
        ({"wave_timeout_s": float("nan")}, "wave_timeout_s"),
        ({"max_failures": -1}, "max_failures"),
    ],
)
def test_a_rollout_that_cannot_be_carried_out_is_refused(changes, words):
    with pytest.raises(RolloutError, match=words):
        plan.create(msgspec.structs.replace(SPEC, **changes), {"a": True}, now=1.0)


def test_an_empty_cohort_is_refused():
    with pytest.raises(RolloutError, match="widen its query"):
        plan.create(SPEC, {}, now=1.0)


@pytest.mark.parametrize(
    ("devices_n", "allowed"), [(1, 1), (19, 1), (20, 1), (21, 2), (100, 5), (1_000, 50)]
)
def test_the_default_gate_grows_with_the_fleet(devices_n: int, allowed: int):
    assert plan.failures_allowed(RolloutSpec(), devices_n) == allowed


def test_the_preview_is_what_then_happens():
    run = Run(RolloutSpec(waves=[25, 50, 100], soak_s=0), online="bcde", offline="a")
    foreseen = waves.preview(run.state)
    assert [sorted(w) for w in foreseen] == [["b"], ["c"], ["a", "d", "e"]]
    seen = [assigned(run(Start()))]
    for devices in foreseen[:-1]:
        for device in devices:
            commands = run.report(device)
        seen.append(assigned(commands))
    assert [sorted(s) for s in seen] == [sorted(w) for w in foreseen]


EVENTS = st.one_of(
    st.just(Start()),
    st.just(Pause()),
    st.just(Resume()),
    st.sampled_from([Tick()] * 5),
    st.builds(DeviceReported, device=st.sampled_from("abcdefg"), outcome=st.sampled_from(Outcome)),
    st.builds(
        DeviceReported, device=st.sampled_from("abcdefg"), outcome=st.just(Outcome.COMMITTED)
    ),
    st.builds(DeviceOnline, device=st.sampled_from("abcdefg")),
    st.builds(DeviceOffline, device=st.sampled_from("abcdefg")),
    st.sampled_from([Abort(), Rollback(), Submit(by="x"), Approve(by="y")]),
)


def check(before: RolloutState, after: RolloutState, commands: list[plan.Command]) -> None:
    spec = after.spec
    statuses = [d.status for d in after.devices.values()]
    failed = statuses.count(DeviceStatus.FAILED) - after.accepted_failures
    eligible = len(statuses) - statuses.count(DeviceStatus.INCOMPATIBLE)
    if before.status is RolloutStatus.RUNNING and after.status is RolloutStatus.SUCCEEDED:
        assert failed < plan.failures_allowed(spec, eligible)
        assert all(w.status is WaveStatus.PASSED for w in after.waves)
    if after.status is RolloutStatus.RUNNING:
        assert failed < plan.failures_allowed(spec, eligible)
    if (
        after.status in ENDED | {RolloutStatus.PAUSED}
        and before.status is not RolloutStatus.RUNNING
    ):
        assert not [c for c in commands if isinstance(c, Assign)]
    if after.status is RolloutStatus.ROLLED_BACK:
        assert set(statuses) <= {
            DeviceStatus.RESTORED,
            DeviceStatus.PENDING,
            DeviceStatus.INCOMPATIBLE,
        }
    for command in commands:
        was, now = before.devices[command.device], after.devices[command.device]
        if isinstance(command, Assign):
            assert was.status is DeviceStatus.PENDING
        else:
            assert now.status is DeviceStatus.RESTORED
    again = msgspec.json.decode(msgspec.json.encode(after), type=RolloutState)
    assert again == after
    json.dumps(msgspec.to_builtins(after))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.tuples(EVENTS, st.floats(0, 60)), max_size=60),
    st.lists(st.integers(1, 99), max_size=3, unique=True),
    st.integers(0, 3),
    st.integers(0, 7),
)
def test_whatever_happens_the_rules_hold(events, percents, max_failures, online_n):
    spec = RolloutSpec(
        waves=[*sorted(percents), 100], max_failures=max_failures, soak_s=10, wave_timeout_s=100
    )
    devices = {d: i < online_n for i, d in enumerate("abcdefg")}
    state, now = plan.create(spec, devices, now=1.0), 1.0
    ordered: list[str] = []
    for event, wait in events:
        now += wait
        try:
            after, commands = step(state, event, now)
        except (UnlistedTransitionError, RolloutError):
            continue
        check(state, after, commands)
        ordered += [c.device for c in commands if isinstance(c, Assign)]
        due = deadline(after)
        assert due is None or due > now
        state = after
    assert len(ordered) == len(set(ordered))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.lists(st.integers(1, 99), unique=True))
def test_when_all_goes_well_every_rollout_succeeds(seed: int, devices_n: int, percents: list[int]):
    rng = random.Random(seed)
    devices = {f"d{i}": rng.random() < 0.7 for i in range(devices_n)}
    spec = RolloutSpec(waves=[*sorted(percents), 100], soak_s=rng.choice([0.0, 5.0]))
    state, now = plan.create(spec, devices, now=1.0), 1.0
    state, commands = step(state, Start(), now)
    at_work = {c.device for c in commands}
    for _ in range(1_000):
        now += 1
        if state.status in ENDED:
            break
        offline = [d for d, s in state.devices.items() if s.offline_since]
        ready = sorted(d for d in at_work if not state.devices[d].offline_since)
        event: plan.Event = Tick()
        if ready and rng.random() < 0.5:
            event = DeviceReported(device=rng.choice(ready), outcome=Outcome.COMMITTED)
            at_work.discard(event.device)
        elif offline and rng.random() < 0.3:
            event = DeviceOnline(device=rng.choice(offline))
        state, commands = step(state, event, now)
        at_work |= {c.device for c in commands}
    assert state.status is RolloutStatus.SUCCEEDED
