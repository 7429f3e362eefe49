"""The real daemon, enrolled and updated by a real cloud over a real broker: processes, sockets, signals."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.artifacts import attested, classify
from support.installation import House, eventually
from support.real_agent import Agent, enrolled, push

from agent.errors import WorkerLostError
from cloud.services import artifacts, engines, proving, releases
from fleet.artifact import package
from fleet.registry.repositories import Devices, Engines, Models, Proving, Telemetry
from fleet.registry.tables import EngineBuild, ModelVersion, Trial

pytestmark = pytest.mark.slow


@pytest.fixture
def device(wired: House, tmp_path: Path) -> Iterator[Agent]:
    """An enrolled device, its daemon not yet started."""
    with enrolled(wired, tmp_path / "device") as agent:
        yield agent


def artifact(**changes: Any) -> bytes:
    return package.write(attested(classify("classify.tflite", model="digits", **changes)))


def refused(house: House, version: int) -> list[str]:
    """The error codes with which a version of the model was refused."""
    with house.context.read() as session:
        found = Telemetry(session).reports("camera-1")
        return [
            r.error_code for r in found
            if r.release == f"digits@{version}" or r.release == str(version)
            if r.state == "refused"
        ]  # fmt: skip


def test_a_device_enrols_updates_rolls_back_and_survives(device: Agent):
    push(device, artifact(), "1")
    device.start()
    served = device.serves("1")
    assert device.ask(served["url"])
    assert len(device.workers()) == 1

    wrong = artifact(golden_outputs={"probs": classify().golden_outputs["probs"][::-1].copy()})
    push(device, wrong, "2")
    device.serves("1", "failed")
    assert device.model()["error_code"] == "agent.self_test"
    assert device.ask(served["url"])

    worker = device.workers()[0].pid
    device.end(signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(worker), "the worker dies with the daemon")
    assert device.status()["running"] is False
    device.start(OUTRIDER_AGENT_BROKER_PORT="1")
    again = device.serves("1", "failed")
    assert again["url"] == served["url"], "applications find the model where it was"
    assert device.status()["connected"] is False

    worker = device.workers()[0].pid
    assert device.end(signal.SIGTERM) == 0
    assert not psutil.pid_exists(worker)
    assert "agent.stopped" in device.errors.read_text()


def test_what_nobody_vouches_for_is_refused_whatever_is_signed(device: Agent):
    push(device, artifact(), "1")
    device.start()
    served = device.serves("1")
    plain = classify("classify.tflite", model="digits")
    kept = attested(plain).attestation
    attacks = {
        "stripped": package.write(plain),
        "signed by another host": package.write(attested(plain, host="stranger")),
        "payload swapped, attestation kept": package.write(
            msgspec.structs.replace(
                classify("classify_int8.tflite", model="digits"), attestation=kept
            )
        ),
    }
    for version, (attack, data) in enumerate(attacks.items(), start=2):
        push(device, data, str(version))
        eventually(lambda v=version: refused(device.house, v), f"{attack}: refused")
        assert refused(device.house, version) == ["ota.unattested"], attack
        device.serves("1", "refused")
    assert device.ask(served["url"])
    push(device, artifact(licence="MIT"), "9")
    device.serves("9")


def test_a_crashed_worker_is_replaced(device: Agent):
    push(device, artifact(), "1")
    device.start()
    served = device.serves("1")
    worker = device.workers()[0]
    worker.kill()
    eventually(
        lambda: [found for found in device.workers() if found.pid != worker.pid], "another worker"
    )
    device.serves("1")
    assert device.ask(served["url"])
    assert WorkerLostError.code in device.errors.read_text()


def test_windows_wait_for_the_broker_and_none_is_missing(device: Agent):
    push(device, artifact(), "1")
    device.start()
    device.serves("1")
    broker = psutil.Process(device.house.supervisor.pids()["broker"])
    broker.suspend()
    try:
        eventually(lambda: device.status()["buffered"] >= 3, "windows are buffered", 30)
    finally:
        broker.resume()
    eventually(lambda: device.status()["buffered"] <= 1, "windows have arrived", 90)
    with device.house.context.read() as session:
        held = sorted(Telemetry(session).windows("camera-1"), key=lambda w: w.started)
    gaps = [b.started - a.ended for a, b in itertools.pairwise(held)]
    assert max(gaps) < 0.5
    assert all(window.merged == 1 for window in held)


def test_a_proving_device_proves_a_candidate_that_never_answers(device: Agent):
    context = device.house.context
    push(device, artifact(), "1")
    device.start()
    served = device.serves("1")
    with context.unit() as unit:
        unit.session.add(
            ModelVersion(
                model="digits", version="2", number=2, folder_sha256="f", archive_sha256="a",
                created_at=unit.now, created_by="test",
            )
        )  # fmt: skip
        hardware = proving.name(unit, device.device, on=True, by="op").proving_class
    made = {"version": "2", "status": "unproven", "hardware_classes": [hardware], "target": "bench"}
    for seed, outputs in (
        ("wrong", classify().golden_outputs["probs"][::-1].copy()),
        ("good", None),
    ):
        changes = {"golden_outputs": {"probs": outputs}} if outputs is not None else {}
        prepared = artifacts.prepare(context, artifact(recipe=seed, **made, **changes))
        with context.unit() as unit:
            row = artifacts.enter(unit, prepared, model="digits", version="2", result={})
        trial = proving.prove(context, row.sha256, by="ann").id

        def ended(trial: str = trial) -> Trial | None:
            with context.read() as session:
                found = Proving(session).trial(trial)
            return found if found.finished_at else None

        found = eventually(ended, f"the {seed} candidate is judged", 60)
        assert device.serves("1")["url"] == served["url"]
        assert device.ask(served["url"])
        assert len(device.workers()) == 1
        if seed == "wrong":
            assert (found.state, "agent.self_test" in found.reason) == ("refused", True)
            assert found.figures["golden_cosine_min"] < 0.999
    assert found.state == "proven", found.reason
    assert 0 < found.figures["latency_ms_p50"] <= found.figures["latency_ms_p95"]
    assert found.figures["peak_memory_mib"] > 10
    assert found.facts["runtime"] == "litert"
    assert found.facts["runtime_version"]
    with context.read() as session:
        assert Models(session).find_artifact(found.artifact).standing == "proven"
    assert releases.create(context, model="digits", version="2", by="ann").left_out == {}


def test_a_device_without_a_builder_says_so_over_its_own_link(device: Agent):
    context = device.house.context
    push(device, artifact(), "1")
    device.start()
    device.serves("1")
    with context.unit() as unit:
        row = Devices(unit.session).get(device.device)
        row.builder_class = row.hardware_class
        artifacts_of = Models(unit.session).artifacts("digits")
        artifacts_of[0].hardware_classes = [row.hardware_class]
    order = engines.order(context, artifacts_of[0].sha256, by="ann").id

    def ended() -> EngineBuild | None:
        with context.read() as session:
            found = Engines(session).get(order)
        return found if found.finished_at else None

    found = eventually(ended, "the device answers", 60)
    assert (found.state, found.reason.split(":")[0]) == ("refused", "agent.no_builder")
