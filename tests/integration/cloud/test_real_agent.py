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
from fleet.artifact import package
from fleet.registry.repositories import Telemetry

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
