"""The real daemon, enrolled and updated by a real cloud over a real broker: processes, sockets, signals."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil
import pytest
from support.artifacts import attested, classify
from support.installation import House, eventually
from support.mqtt_device import assign

from agent.errors import WorkerLostError
from cloud.gateway import enrol_server
from cloud.services import enrolment
from fleet.artifact import package
from fleet.registry.repositories import Telemetry

pytestmark = pytest.mark.slow


class Agent:
    """A device's folder, and its daemon's process."""

    def __init__(self, house: House, folder: Path, device: str) -> None:
        self.house, self.folder, self.device = house, folder, device
        folder.mkdir()
        self.config = folder / "agent.toml"
        self.config.write_text(
            'state_dir = "state"\n[telemetry]\nwindow_s = 1\n[probation]\ngood_answers = 2\nmax_s = 1\n'
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.errors = folder / "stderr.log"

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "agent.cli", *arguments, "--config", str(self.config)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def start(self, **env: str) -> None:
        argv = [sys.executable, "-m", "agent.cli", "run", "--config", str(self.config)]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(argv, stderr=errors, env={**os.environ, **env})

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def status(self) -> dict[str, Any]:
        done = self.call("status", "--json")
        return dict(json.loads(done.stdout)) if done.stdout else {}

    def model(self) -> dict[str, Any]:
        models = self.status().get("models", [])
        return models[0] if models else {}

    def serves(self, release: str, state: str = "committed") -> dict[str, Any]:
        def probe() -> dict[str, Any]:
            found = self.model()
            wanted = {"release": release, "state": state, "serving": "serving"}
            return found if wanted.items() <= found.items() else {}

        return eventually(probe, f"{release} {state}: {self.errors.read_text()[-1500:]}", 60)

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children()

    def ask(self, url: str) -> bool:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
        try:
            connection.request("GET", "/v2/models/digits/ready")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()


@pytest.fixture
def device(wired: House, tmp_path: Path) -> Iterator[Agent]:
    """An enrolled device, its daemon not yet started."""
    service = wired.loop.run(enrol_server.start(wired.context))
    agent = Agent(wired, tmp_path / "device", "camera-1")
    try:
        assert service._listener is not None
        _enrol(agent, service._listener.getsockname()[1])
        yield agent
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.end(signal.SIGKILL)
        wired.loop.run(service.stop())


def _enrol(agent: Agent, port: int) -> None:
    house = agent.house
    with house.context.unit() as unit:
        made = enrolment.create_claim(
            unit, device=agent.device, tenant="default", labels={}, expires_s=600.0, actor="test",
            ids=house.context.ids,
        )  # fmt: skip
    pinned = house.pki.load_authority().sha256()
    done = agent.call(
        "enroll", "--url", f"https://127.0.0.1:{port}", "--code", made.code, "--ca-sha256", pinned
    )
    assert done.returncode == 0, done.stderr


def artifact(**changes: Any) -> bytes:
    return package.write(attested(classify("classify.tflite", model="digits", **changes)))


def reports(house: House, counter: int) -> list[str]:
    with house.context.read() as session:
        found = Telemetry(session).reports("camera-1")
        return [
            r.state for r in sorted(found, key=lambda r: r.seq) if r.assignment_counter == counter
        ]


def refused(house: House, version: int) -> list[str]:
    """The error codes with which a version of the model was refused."""
    with house.context.read() as session:
        found = Telemetry(session).reports("camera-1")
        return [
            r.error_code for r in found
            if r.release == f"digits@{version}" or r.release == str(version)
            if r.state == "refused"
        ]  # fmt: skip


def push(agent: Agent, data: bytes, version: str) -> None:
    assign(agent.house, agent.device, data, version=version)
    with agent.house.context.unit() as unit:
        unit.publish("desired", device=agent.device)


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
