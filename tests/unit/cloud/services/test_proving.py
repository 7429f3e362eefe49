"""A proving device's signed figures promote an artifact, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from support import clouds
from support.clouds import Cloud, Endpoint

from cloud.errors import InputError
from cloud.services import cohorts, proving, releases, rollouts, trust, views
from cloud.services.cohorts import Cohort
from fleet.artifact.manifest import Tolerance
from fleet.registry.errors import ConflictError
from fleet.registry.repositories import Audit, Devices, Models, Proving, Telemetry, Trust
from fleet.registry.tables import DesiredModel, Trial
from fleet.wire import envelope
from ota.errors import VerificationError
from ota.proving import judge
from ota.proving.judge import Limits
from ota.proving.trial import TRIAL, TrialState, TrialTrigger
from ota.rollout.plan import RolloutSpec

GOOD = {
    "golden_cosine_min": 0.99999, "golden_max_abs": 1e-4, "latency_ms_p50": 0.5,
    "latency_ms_p95": 0.8, "peak_memory_mib": 40.0,
}  # fmt: skip
FACTS = {"runtime": "onnxruntime", "runtime_version": "1.23.2"}


@pytest.fixture
def prover(cloud: Cloud) -> Endpoint:
    """A proving device with its own key, and an unproven artifact for its class."""
    cloud.publish_model()
    device = clouds.enrol(cloud, "prover", keys=True)
    device.connect()
    with cloud.context.unit() as unit:
        proving.name(unit, "prover", on=True, by="op")
    return device


@pytest.fixture
def unproven(cloud: Cloud, prover: Endpoint) -> str:
    return cloud.add_artifact(status="unproven", tolerance=Tolerance(cosine_min=0.999, max_abs=0.01)).sha256  # fmt: skip


def prove(cloud: Cloud, sha256: str, **options: Any) -> Trial:
    return proving.prove(cloud.context, sha256, by="ann", **options)


def now_of(cloud: Cloud, trial: Trial) -> Trial:
    with cloud.context.read() as session:
        return Proving(session).trial(trial.id)


def standing(cloud: Cloud, sha256: str) -> str:
    with cloud.context.read() as session:
        found = Models(session).find_artifact(sha256)
    assert found is not None
    return found.standing


def wanted(cloud: Cloud, device: str) -> dict[str, str]:
    with cloud.context.read() as session:
        return {row.model: row.release for row in Trust(session).desired(device)}


def measure(prover: Endpoint, **figures: float | None) -> bytes:
    prover.fetch()
    return prover.tell("measured", figures={**GOOD, **figures}, facts=FACTS)


def test_signed_figures_promote_and_then_a_release_takes_it(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    with pytest.raises(InputError, match="onnx-cpu: unproven"):
        releases.create(cloud.context, model="digits", version="1", by="ann")
    trial = prove(cloud, unproven)
    assert (trial.device, trial.state) == ("prover", "running")
    prover.fetch()
    assert prover.acceptance is not None
    (target,) = prover.acceptance.targets
    assert target.candidate
    assert target.sha256 == unproven
    sealed = measure(prover)
    ended = now_of(cloud, trial)
    assert (ended.state, ended.figures, ended.facts) == ("proven", GOOD, FACTS)
    assert ended.report == sealed
    assert [gate["passed"] for gate in ended.gates] == [True, None, True]
    assert standing(cloud, unproven) == "proven"
    prover.fetch()
    assert prover.wanted == {}
    created = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert created.left_out == {}
    with cloud.context.read() as session:
        (variant,) = views.release(session, "digits@1").variants
        actions = [entry.action for entry in Audit(session).all()]
    assert (variant.artifact, variant.proved_by) == (unproven, "prover")
    assert {"device.proving", "trial.request", "trial.proven", "release.create"} <= set(actions)


def test_the_kept_report_can_be_verified_again(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    trial = prove(cloud, unproven)
    measure(prover)
    kept = now_of(cloud, trial)
    key = serialization.load_der_public_key(kept.report_key)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    payload = envelope.unseal(
        envelope.from_bytes(kept.report), {envelope.key_id(key): key}, kind="reported",
        device="prover", now=cloud.clock.now,
    )  # fmt: skip
    assert json.loads(payload)["figures"] == GOOD


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({"golden_cosine_min": 0.9}, "golden: cosine 0.9, at least 0.999"),
        ({"golden_max_abs": 0.5}, "differences up to 0.5, at most 0.01"),
        ({"golden_cosine_min": None}, "golden: expected figures, found none"),
        ({"golden_cosine_min": 7.0}, "golden: cosine 7"),
        ({"latency_ms_p50": None}, "latency: expected a p50 above 0 ms"),
        ({"latency_ms_p50": 0.0}, "latency: expected a p50 above 0 ms"),
        ({"peak_memory_mib": 1e6}, "memory: 1e+06 MiB, at most"),
        ({"peak_memory_mib": None}, "memory: expected a figure, found none"),
    ],
)
def test_figures_that_miss_a_limit_refuse_it(
    cloud: Cloud, prover: Endpoint, unproven: str, figures: dict[str, Any], reason: str
) -> None:
    trial = prove(cloud, unproven)
    measure(prover, **figures)
    ended = now_of(cloud, trial)
    assert ended.state == "refused"
    assert reason in ended.reason
    assert standing(cloud, unproven) == "unproven"
    assert wanted(cloud, "prover") == {}
    assert prove(cloud, unproven).state == "running"  # another try is another trial


def test_the_latency_gate_of_the_target_and_what_the_class_runs_already(
    cloud: Cloud, prover: Endpoint
) -> None:
    known = {"chosen": {"latency_source": "3 devices"}, "baseline_ms": {"p50": 0.4, "p95": 0.5}}
    slow = cloud.add_artifact(status="unproven", result=known).sha256
    trial = prove(cloud, slow)
    measure(prover)
    reason = now_of(cloud, trial).reason
    assert "p50 0.5 ms, at most 0.4 ms (the fastest float file on 3 devices)" in reason
    rival = cloud.add_artifact("classify.tflite", target="litert-cpu").sha256
    other = clouds.enrol(cloud, "other")
    other.connect()
    releases.create(cloud.context, model="digits", version="1", by="ann")
    with cloud.context.unit() as unit:
        trust_rows = Trust(unit.session)
        trust_rows.set_desired(DesiredModel(device="other", model="digits", release="digits@1", artifact=rival, updated_at=unit.now))  # fmt: skip
        trust.assign(unit, cloud.context.settings, "other")
    other.fetch()
    other.report("activating", figures={"latency_ms_p50": 0.2, "latency_ms_p95": 0.3})
    unproven = cloud.add_artifact(status="unproven", recipe="another").sha256
    trial = prove(cloud, unproven)
    measure(prover)
    assert "at most 0.21 ms" in now_of(cloud, trial).reason
    measure_again = prove(cloud, unproven)
    measure(prover, latency_ms_p50=0.205)
    assert now_of(cloud, measure_again).state == "proven"


def test_a_failure_on_the_device_refuses_it_and_says_why(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    trial = prove(cloud, unproven)
    prover.fetch()
    prover.tell("failed", error_code="agent.self_test", detail="expected a cosine of 0.999")
    ended = now_of(cloud, trial)
    assert (ended.state, ended.reason) == ("refused", "failed: agent.self_test expected a cosine of 0.999")  # fmt: skip


# --- attacks ---------------------------------------------------------------------------------------


def test_another_device_never_gets_it(cloud: Cloud, prover: Endpoint, unproven: str) -> None:
    prove(cloud, unproven)
    other = clouds.enrol(cloud, "other")
    other.connect()
    assert other.wanted == {}
    with cloud.context.read() as session:
        release = Proving(session).running_on("prover")
    assert release is not None
    assert release.release is not None
    with pytest.raises(InputError, match="a candidate that prover alone may prove"), cloud.context.read() as session:  # fmt: skip
        cohorts.resolve(session, Cohort(devices=["other"]), release.release)
    # Even a cloud that was talked into it cannot: the registry refuses the row, ...
    with pytest.raises(IntegrityError, match="not for this device"), cloud.context.unit() as unit:
        Trust(unit.session).set_desired(
            DesiredModel(device="other", model="digits", release=release.release, artifact=unproven, updated_at=0.0)
        )  # fmt: skip
    # ... and the device refuses the assignment that its director would sign.
    with cloud.context.unit() as unit:
        for name in ("insert", "update"):
            unit.session.connection().execute(text(f"DROP TRIGGER desired_model_candidate_{name}"))
        Trust(unit.session).set_desired(
            DesiredModel(device="other", model="digits", release=release.release, artifact=unproven, updated_at=0.0)
        )  # fmt: skip
        trust.assign(unit, cloud.context.settings, "other")
    with pytest.raises(VerificationError, match="'prover' alone may prove"):
        other.fetch()


def test_a_report_by_a_strange_key_does_not_promote(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    trial = prove(cloud, unproven)
    prover.fetch()
    forger = ec.derive_private_key(99, ec.SECP256R1())
    prover.tell("measured", figures=GOOD, by=forger)
    assert now_of(cloud, trial).state == "running"
    other = clouds.enrol(cloud, "other", keys=True)
    other.connect()
    prover.tell("measured", figures=GOOD, by=other.key)
    assert now_of(cloud, trial).state == "running"
    assert standing(cloud, unproven) == "unproven"
    with cloud.context.read() as session:
        assert not Telemetry(session).reports("prover")


def test_another_devices_own_report_does_not_promote(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    trial = prove(cloud, unproven)
    prover.fetch()
    other = clouds.enrol(cloud, "other", keys=True)
    other.connect()
    message = prover.message("measured", figures=GOOD, device="other", boot_epoch="e9")
    other.say(message)
    assert now_of(cloud, trial).state == "running"


def test_an_unsigned_report_does_not_promote(cloud: Cloud, prover: Endpoint, unproven: str) -> None:
    trial = prove(cloud, unproven)
    prover.fetch()
    prover.report("measured", figures=GOOD)
    assert now_of(cloud, trial).state == "running"


@pytest.mark.parametrize(
    "changes",
    [{"sha256": "0" * 64}, {"sha256": ""}, {"release": "1"}, {"assignment_counter": 0}, {"model": "other"}, {"terminal": False}],
    ids=str,
)  # fmt: skip
def test_a_report_about_something_else_does_not_promote(
    cloud: Cloud, prover: Endpoint, unproven: str, changes: dict[str, Any]
) -> None:
    trial = prove(cloud, unproven)
    prover.fetch()
    message = prover.message("measured", figures=GOOD)
    prover.say(msgspec.structs.replace(message, **changes))
    assert now_of(cloud, trial).state == "running"


def test_a_replayed_report_of_an_earlier_trial_does_not_promote(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    first = prove(cloud, unproven)
    sealed = measure(prover, latency_ms_p50=0.0)
    assert now_of(cloud, first).state == "refused"
    second = prove(cloud, unproven)
    prover.post(sealed)
    assert now_of(cloud, second).state == "running"


def test_a_device_that_says_it_is_of_another_class_proves_nothing(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    trial = prove(cloud, unproven)
    prover.fetch()
    prover.connect(hardware_class="cpu-arm64")
    prover.tell("measured", figures=GOOD)
    ended = now_of(cloud, trial)
    assert (ended.state, standing(cloud, unproven)) == ("cancelled", "unproven")
    strange = cloud.add_artifact(status="unproven", recipe="x", hardware_classes=["rtx-ada"]).sha256
    with pytest.raises(InputError, match="expected a proving device of rtx-ada"):
        prove(cloud, strange)


# --- who, when, and in whose way -------------------------------------------------------------------


def test_only_an_unproven_artifact_is_tried_and_only_once_at_a_time(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    accepted = cloud.add_artifact("classify.tflite", target="litert-cpu").sha256
    with pytest.raises(InputError, match="is accepted; there is nothing to prove"):
        prove(cloud, accepted)
    prove(cloud, unproven)
    with pytest.raises(ConflictError, match="is on trial already"):
        prove(cloud, unproven)


def test_who_is_not_named_proves_nothing(cloud: Cloud, prover: Endpoint, unproven: str) -> None:
    other = clouds.enrol(cloud, "other")
    with pytest.raises(InputError, match="has never connected"), cloud.context.unit() as unit:
        proving.name(unit, "other", on=True, by="op")
    other.connect()
    with pytest.raises(InputError, match="name it: outrider device proving other"):
        prove(cloud, unproven, device="other")
    with cloud.context.unit() as unit:
        proving.name(unit, "prover", on=False, by="op")
    with pytest.raises(InputError, match="name one: outrider device proving"):
        prove(cloud, unproven)


def test_a_device_without_the_runtime_is_told_apart(cloud: Cloud, prover: Endpoint) -> None:
    engine = cloud.add_artifact(status="unproven", runtime="tensorrt").sha256
    with pytest.raises(InputError, match="prover: needs tensorrt, the device has"):
        prove(cloud, engine)


def test_trials_of_a_device_wait_for_one_another(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    second = cloud.add_artifact("classify.tflite", status="unproven", target="litert-cpu").sha256
    one, two = prove(cloud, unproven), prove(cloud, second)
    assert (now_of(cloud, one).state, now_of(cloud, two).state) == ("running", "queued")
    measure(prover)
    assert (now_of(cloud, one).state, now_of(cloud, two).state) == ("proven", "running")
    measure(prover)
    assert now_of(cloud, two).state == "proven"


def test_what_ran_before_is_assigned_again_whatever_the_end(cloud: Cloud, prover: Endpoint) -> None:
    cloud.release(version="2")
    rolled(cloud, "digits@2", ["prover"])
    prover.update()
    before = prover.wanted
    for recipe, end in (("a", "proven"), ("b", "refused"), ("c", "cancelled"), ("d", "expired")):
        sha256 = cloud.add_artifact(status="unproven", recipe=recipe).sha256
        trial = prove(cloud, sha256)
        prover.fetch()
        assert prover.wanted != before
        if end == "cancelled":
            proving.cancel(cloud.context, trial.id, by="ann")
        elif end == "expired":
            cloud.clock.now += proving.RUN_S + 1
            assert proving.tick(cloud.context) == 1
        else:
            measure(prover, latency_ms_p50=0.5 if end == "proven" else None)
        assert now_of(cloud, trial).state == end
        prover.fetch()
        assert prover.wanted == before
        assert not candidates(cloud)
        prover.report("committed")


def test_a_rollout_takes_the_device_over(cloud: Cloud, prover: Endpoint, unproven: str) -> None:
    cloud.release(version="2")
    cloud.release(version="3")
    rolled(cloud, "digits@2", ["prover"])
    prover.update()
    trial = prove(cloud, unproven)
    prover.fetch()
    rollout = rolled(cloud, "digits@3", ["prover"])
    ended = now_of(cloud, trial)
    assert ended.state == "cancelled"
    assert f"rollout {rollout} took the device over" in ended.reason
    assert wanted(cloud, "prover") == {"digits": "digits@3"}
    rollouts.order(cloud.context, rollout, "rollback", by="op")
    assert wanted(cloud, "prover") == {"digits": "digits@2"}


def test_a_trial_waits_for_the_rollout_that_is_on_its_device(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    cloud.release(version="2")
    rolled(cloud, "digits@2", ["prover"])
    trial = prove(cloud, unproven)
    assert trial.state == "queued"
    assert proving.tick(cloud.context) == 0
    prover.update()
    assert proving.tick(cloud.context) == 1
    assert now_of(cloud, trial).state == "running"


def test_a_revoked_prover_ends_its_trial(cloud: Cloud, prover: Endpoint, unproven: str) -> None:
    trial = prove(cloud, unproven)
    with cloud.context.unit() as unit:
        Devices(unit.session).get("prover").revoked_at = unit.now
    proving.tick(cloud.context)
    assert now_of(cloud, trial).state == "cancelled"


def test_a_release_that_was_signed_is_extended_by_what_was_proven(
    cloud: Cloud, prover: Endpoint, unproven: str
) -> None:
    fallback = cloud.add_artifact("classify.tflite", fallback=True).sha256
    created = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert created.left_out == {"onnx-cpu": "unproven"}
    with cloud.context.read() as session:
        (variant,) = views.release(session, "digits@1").variants
    assert (variant.artifact, variant.path) == (fallback, "digits/1/onnx-cpu-litert.outrider")
    prove(cloud, unproven)
    measure(prover)
    assert releases.create(cloud.context, model="digits", version="1", by="ann").left_out == {}
    with cloud.context.read() as session:
        found = {v.path: v.artifact for v in views.release(session, "digits@1").variants}
        (member,) = cohorts.resolve(session, Cohort(devices=["prover"]), "digits@1")
    assert found == {
        "digits/1/onnx-cpu.outrider": unproven, "digits/1/onnx-cpu-litert.outrider": fallback,
    }  # fmt: skip
    assert member.artifact is not None
    assert member.artifact.sha256 == unproven  # although the device lists LiteRT first


def rolled(cloud: Cloud, release: str, devices: list[str]) -> str:
    return rollouts.create(
        cloud.context, release=release, cohort=Cohort(devices=devices),
        spec=RolloutSpec(waves=[100.0], soak_s=0.0), start=True, by="op",
    )  # fmt: skip


def candidates(cloud: Cloud) -> list[str]:
    """Paths of candidates that the image repository still vouches for."""
    with cloud.context.read() as session:
        document = json.loads(Trust(session).files("image")["digits.json"])
    return [path for path in document["signed"]["targets"] if "candidate" in path]


# --- the pure parts --------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(TrialTrigger), max_size=12))
def test_a_trial_ends_once_and_only_a_running_one_with_a_verdict(
    events: list[TrialTrigger],
) -> None:
    state, seen = TRIAL.initial, []
    for event in events:
        if TRIAL.allows(state, event):
            state = TRIAL.next(state, event)
            seen.append(event)
    assert sum(event is not TrialTrigger.BEGUN for event in seen) <= 1
    assert (state in TRIAL.terminal) == any(event is not TrialTrigger.BEGUN for event in seen)
    if state in {TrialState.PROVEN, TrialState.REFUSED}:
        assert seen[0] is TrialTrigger.BEGUN


NUMBERS = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@given(NUMBERS, NUMBERS, NUMBERS, st.none() | st.floats(0.01, 1e3))
def test_what_is_proven_met_every_limit(
    cosine: float | None, max_abs: float | None, p50: float | None, limit: float | None
) -> None:
    limits = Limits(tolerance=Tolerance(cosine_min=0.99, max_abs=0.1), latency_ms_p50_max=limit)
    figures = {"golden_cosine_min": cosine, "golden_max_abs": max_abs, "latency_ms_p50": p50}
    found = judge.judge(figures, limits)
    meets = (
        cosine is not None and 0.99 <= cosine <= 1.0
        and max_abs is not None and 0.0 <= max_abs <= 0.1
        and p50 is not None and 0.0 < p50 < float("inf")
        and (limit is None or p50 <= limit)
    )  # fmt: skip
    assert found.proven == meets
    assert found.reason
