"""The real daemon of an enrolled device, as a process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from support.installation import House, eventually
from support.mqtt_device import assign

from cloud.gateway import enrol_server
from cloud.services import enrolment
from fleet.artifact import package


class Agent:
    """A device's folder, and its daemon's process."""

    def __init__(self, house: House, folder: Path, device: str) -> None:
        self.house, self.folder, self.device = house, folder, device
        folder.mkdir()
        self.config = folder / "agent.toml"
        self.config.write_text(
            'state_dir = "state"\n[telemetry]\nwindow_s = 1\n[probation]\ngood_answers = 2\nmax_s = 1\n'
        )
        self.enrol_port = 0
        self.cloud_https: enrol_server.EnrolServer | None = None
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


def enrol(agent: Agent, port: int) -> None:
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


@contextmanager
def enrolling(house: House) -> Iterator[int]:
    """The cloud's server for devices; its port."""
    service = house.loop.run(enrol_server.start(house.context))
    try:
        assert service._listener is not None
        yield service._listener.getsockname()[1]
    finally:
        house.loop.run(service.stop())


@contextmanager
def enrolled(house: House, folder: Path, device: str = "camera-1") -> Iterator[Agent]:
    """An enrolled device, its daemon not yet started; it is ended afterwards."""
    service = house.loop.run(enrol_server.start(house.context))
    agent = Agent(house, folder, device)
    agent.cloud_https = service
    try:
        assert service._listener is not None
        agent.enrol_port = service._listener.getsockname()[1]
        enrol(agent, agent.enrol_port)
        yield agent
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.end(signal.SIGKILL)
        house.loop.run(service.stop())


def push(agent: Agent, data: bytes, version: str) -> None:
    runtime = package.read(data).manifest.runtime
    assign(agent.house, agent.device, data, version=version, runtime=runtime)
    with agent.house.context.unit() as unit:
        unit.publish("desired", device=agent.device)
