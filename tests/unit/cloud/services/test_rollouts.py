"""Rollouts over the real machine, registry and signatures, with devices that verify what they get."""

from __future__ import annotations

from typing import Any

import pytest
from support import clouds
from support.clouds import Cloud, Endpoint
from support.clouds import enrol as enrol_one

from cloud.errors import InputError
from cloud.services import ingest, rollouts, trust, views
from cloud.services.cohorts import Cohort
from fleet.errors import UnlistedTransitionError
from fleet.registry.errors import NotFoundError
from fleet.wire.messages import RuntimeInfo, Status
from ota.errors import RolloutError
from ota.rollout.plan import RolloutSpec

LITERT = [RuntimeInfo(name="litert", version="2")]
ONNX = [RuntimeInfo(name="onnxruntime", version="1")]


def fleet_of(cloud: Cloud, *names: str, **changes: Any) -> list[Endpoint]:
    devices = [enrol_one(cloud, name, **changes) for name in names]
    for device in devices:
        device.connect()
    return devices


def start(cloud: Cloud, release: str = "digits@1", **changes: Any) -> str:
    fields = {"waves": [34.0, 100.0], "soak_s": 10.0}
    spec = RolloutSpec(**(fields | changes))
    return rollouts.create(
        cloud.context, release=release, cohort=Cohort(), spec=spec, start=True, by="op"
    )


def view(cloud: Cloud, rollout: str) -> views.RolloutView:
    with cloud.context.read() as session:
        return views.rollout(session, rollout)


def states(cloud: Cloud, rollout: str) -> dict[str, str]:
    return {member.device: member.state for member in view(cloud, rollout).members}


def pass_time(cloud: Cloud, seconds: float) -> None:
    cloud.clock.now += seconds
    rollouts.tick(cloud.context)


def test_two_waves_to_success(cloud: Cloud) -> None:
    digests = cloud.release()
    a, b, c = fleet_of(cloud, "a", "b", "c")
    rollout = start(cloud)

    assert states(cloud, rollout) == {"a": "assigned", "b": "pending", "c": "pending"}
    b.fetch()
    assert b.wanted == {}, "the second wave has not begun"
    a.fetch()
    assert a.wanted == {"digits": digests["litert-cpu"]}, "litert is first in its runtimes"
    a.report("fetching", progress=0.5)
    a.report("committed")
    pass_time(cloud, 9)
    assert states(cloud, rollout)["b"] == "pending", "the first wave soaks"
    pass_time(cloud, 2)
    for device in (b, c):
        device.update()
    pass_time(cloud, 11)
    found = view(cloud, rollout)
    assert found.line.state == "succeeded"
    assert (found.line.progress, found.line.counts) == (1.0, {"committed": 3})
    assert all(member.at_goal for member in found.members)
    codes = [step.code for step in found.steps]
    assert codes[0] == "rollout.created"
    assert codes[-1] == "rollout.succeeded"


def test_a_failure_pauses_and_rollback_restores_what_ran_before(cloud: Cloud) -> None:
    before = cloud.release("1")
    a, b, c = fleet_of(cloud, "a", "b", "c")
    first = start(cloud, waves=[100.0], soak_s=0.0)
    for device in (a, b, c):
        device.update()
    pass_time(cloud, 1)
    assert view(cloud, first).line.state == "succeeded"

    cloud.release("2")
    second = start(cloud, "digits@2")
    a.update()
    pass_time(cloud, 11)
    b.fetch()
    b.report("failed", error_code="update.self_test", detail="golden vectors")
    found = view(cloud, second)
    assert found.line.state == "paused"
    assert "1 of 3 devices failed: b (update.self_test golden vectors)" in found.line.reason
    c.fetch()

    rollouts.order(cloud.context, second, "rollback", by="op")
    for device in (a, b, c):
        device.fetch()
        assert device.wanted == {"digits": before["litert-cpu"]}
        device.report("committed")
    found = view(cloud, second)
    assert found.line.state == "rolled_back"
    assert all(member.at_goal for member in found.members if member.state == "restored")
    assert {m.running_release for m in found.members} == {"digits@1"}


def test_restoring_to_nothing_withdraws_the_model(cloud: Cloud) -> None:
    cloud.release()
    (a,) = fleet_of(cloud, "a")
    rollout = start(cloud, waves=[100.0])
    a.update()
    rollouts.order(cloud.context, rollout, "rollback", by="op")
    counter = a.counter
    a.fetch()
    assert (a.wanted, a.counter) == ({}, counter + 1)


def test_a_newer_rollout_keeps_the_devices_that_it_took_over(cloud: Cloud) -> None:
    cloud.release("1")
    newer = cloud.release("2")
    (a,) = fleet_of(cloud, "a")
    old = start(cloud, waves=[100.0])
    start(cloud, "digits@2", waves=[100.0])
    a.update()
    rollouts.order(cloud.context, old, "rollback", by="op")
    a.fetch()
    assert a.wanted == {"digits": newer["litert-cpu"]}
    assert "device.superseded" in [step.code for step in view(cloud, old).steps]


def test_success_is_the_digest_of_the_variant_and_nothing_else(cloud: Cloud) -> None:
    digests = cloud.release()
    (a,) = fleet_of(cloud, "a")
    rollout = start(cloud, waves=[100.0])
    a.fetch()
    a.report("committed", sha256=digests["onnx-cpu"])
    assert states(cloud, rollout) == {"a": "assigned"}, "another variant's digest"
    a.report("committed", sha256="")
    assert states(cloud, rollout) == {"a": "assigned"}, "no digest"
    a.report("committed", assignment_counter=a.counter - 1)
    assert states(cloud, rollout) == {"a": "assigned"}, "an older assignment"
    a.report("committed")
    assert states(cloud, rollout) == {"a": "committed"}


def test_a_repeated_report_is_one_step(cloud: Cloud) -> None:
    cloud.release()
    a, _ = fleet_of(cloud, "a", "b")
    rollout = start(cloud, waves=[50.0, 100.0], soak_s=0.0)
    a.fetch()
    message = a.report("committed")
    before = view(cloud, rollout)
    for _ in range(3):
        assert ingest.reported(cloud.context, message) == {"epoch-1": [message.seq]}
    assert view(cloud, rollout) == before


def test_each_device_gets_the_first_of_its_own_runtimes(cloud: Cloud) -> None:
    digests = cloud.release()
    fleet_of(cloud, "prefers-onnx", runtimes=[*ONNX, *LITERT])
    fleet_of(cloud, "only-litert", runtimes=LITERT)
    missing = RuntimeInfo(name="litert", available=False, reason="not installed")
    fleet_of(cloud, "litert-is-missing", runtimes=[missing, *ONNX])
    fleet_of(cloud, "no-runtime", runtimes=[missing])
    fleet_of(cloud, "other-hardware", hardware_class="rtx-ada")
    enrol_one(cloud, "never-seen")
    with cloud.context.read() as session:
        found = views.preview(
            session, release="digits@1", cohort=Cohort(), spec=RolloutSpec(waves=[100.0])
        )
    members = {member.device: member for member in found.members}
    assert members["prefers-onnx"].artifact == digests["onnx-cpu"]
    assert members["only-litert"].artifact == digests["litert-cpu"]
    assert members["litert-is-missing"].artifact == digests["onnx-cpu"]
    assert "needs litert or onnxruntime" in members["no-runtime"].reason
    assert "hardware class rtx-ada" in members["other-hardware"].reason
    assert "never connected" in members["never-seen"].reason
    assert (found.devices, found.incompatible) == (3, 3)
    assert found.bytes_total == sum(member.size_bytes for member in found.members)


def test_incompatible_devices_are_listed_and_left_alone(cloud: Cloud) -> None:
    cloud.release()
    good, bad = fleet_of(cloud, "good")[0], fleet_of(cloud, "bad", hardware_class="tpu")[0]
    rollout = start(cloud, waves=[100.0], soak_s=0.0)
    good.update()
    pass_time(cloud, 1)
    bad.fetch()
    assert bad.wanted == {}
    assert view(cloud, rollout).line.state == "succeeded"
    assert states(cloud, rollout) == {"bad": "incompatible", "good": "committed"}


def test_cohorts_by_label_hardware_and_name(cloud: Cloud) -> None:
    cloud.release()
    for name, site in (("a", "north"), ("b", "south"), ("c", "north")):
        (device,) = fleet_of(cloud, name)
        device.connect(labels={"site": site})

    def members(cohort: Cohort) -> list[str]:
        with cloud.context.read() as session:
            found = views.preview(session, release="digits@1", cohort=cohort, spec=RolloutSpec())
        return [member.device for member in found.members]

    assert members(Cohort(labels={"site": "north"})) == ["a", "c"]
    assert members(Cohort(devices=["c", "a"])) == ["c", "a"]
    assert members(Cohort(hardware_class=clouds.HARDWARE)) == ["a", "b", "c"]
    with pytest.raises(InputError, match="at least one enrolled device"):
        members(Cohort(labels={"site": "moon"}))
    with pytest.raises(NotFoundError, match="'ghost'"):
        members(Cohort(devices=["ghost"]))


def test_offline_devices_join_the_last_wave_and_hold_nobody(cloud: Cloud) -> None:
    cloud.release()
    fleet_of(cloud, "a", "b")
    ingest.status(cloud.context, Status(device="a", online=False))
    cloud.clock.now += 60
    rollout = start(cloud, waves=[50.0, 100.0], soak_s=0.0)
    assert states(cloud, rollout) == {"a": "pending", "b": "assigned"}


def test_a_silent_device_is_stale_after_the_timeout(cloud: Cloud) -> None:
    cloud.release()
    a, b = fleet_of(cloud, "a", "b")
    rollout = start(cloud, waves=[100.0], soak_s=0.0, wave_timeout_s=60.0)
    a.update()
    pass_time(cloud, 61)
    assert states(cloud, rollout) == {"a": "committed", "b": "stale"}
    assert view(cloud, rollout).line.state == "succeeded"
    b.update()
    assert states(cloud, rollout)["b"] == "committed", "who speaks up after all counts from then on"


def test_orders_may_be_repeated_and_must_fit(cloud: Cloud) -> None:
    cloud.release()
    fleet_of(cloud, "a")
    rollout = start(cloud)
    for _ in range(2):
        rollouts.order(cloud.context, rollout, "pause", by="op")
    assert view(cloud, rollout).line.state == "paused"
    for _ in range(2):
        rollouts.order(cloud.context, rollout, "abort", by="op")
    with pytest.raises(UnlistedTransitionError):
        rollouts.order(cloud.context, rollout, "resume", by="op")


def test_a_refused_rollout_leaves_nothing(cloud: Cloud) -> None:
    cloud.release()
    fleet_of(cloud, "a", hardware_class="tpu")
    with pytest.raises(RolloutError):
        start(cloud)
    with pytest.raises(NotFoundError):
        start(cloud, "digits@9")
    with cloud.context.read() as session:
        assert views.rollouts(session) == []


def test_a_crash_in_the_middle_of_a_step_undoes_all_of_it(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third of three assignments cannot be signed: no state moved, nobody was assigned."""
    cloud.release()
    devices = fleet_of(cloud, "a", "b", "c")
    rollout = rollouts.create(
        cloud.context,
        release="digits@1",
        cohort=Cohort(),
        spec=RolloutSpec(waves=[100.0]),
        start=False,
        by="op",
    )
    signed = trust.assign
    calls = []

    def power_cut(unit: Any, settings: Any, device: str, **more: Any) -> Any:
        calls.append(device)
        if len(calls) == 3:
            raise SystemExit
        return signed(unit, settings, device, **more)

    monkeypatch.setattr(trust, "assign", power_cut)
    with pytest.raises(SystemExit):
        rollouts.order(cloud.context, rollout, "start", by="op")
    monkeypatch.undo()
    assert view(cloud, rollout).line.state == "draft"
    for device in devices:
        counter = device.counter
        device.fetch()
        assert (device.wanted, device.counter) == ({}, counter)
    rollouts.order(cloud.context, rollout, "start", by="op")
    assert set(states(cloud, rollout).values()) == {"assigned"}


def test_each_assignment_is_noted_on_the_bus_after_its_commit(cloud: Cloud) -> None:
    cloud.release()
    fleet_of(cloud, "a", "b")
    cloud.notes.clear()
    start(cloud, waves=[100.0])
    told = {note.data["device"] for note in cloud.notes if note.topic == "desired"}
    assert told == {"a", "b"}


def test_the_terms_of_a_rollout_are_signed_for_its_devices(cloud: Cloud) -> None:
    cloud.release()
    devices = fleet_of(cloud, "a", "b", "c")
    start(cloud, waves=[100.0], limit_bytes_s=32_000, quiet=["08:00-18:00"])
    for device in devices:
        device.fetch()
        assert device.acceptance is not None
        terms = device.acceptance.targets[0].terms
        assert (terms.limit_bytes_s, terms.quiet, terms.shared) == (32_000, ["08:00-18:00"], 3)


@pytest.mark.parametrize(
    "changes",
    [{"limit_bytes_s": 5}, {"quiet": ["noon"]}, {"quiet": ["00:00-12:00", "12:00-00:00"]}],
)
def test_terms_that_no_device_could_keep_are_refused(cloud: Cloud, changes: dict[str, Any]) -> None:
    cloud.release()
    fleet_of(cloud, "a")
    with pytest.raises(RolloutError):
        start(cloud, **changes)
