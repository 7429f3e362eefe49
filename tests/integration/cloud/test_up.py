"""``outrider up`` as a user runs it: real processes, killed in every way."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.installation import eventually

pytestmark = pytest.mark.slow


@dataclass
class Up:
    """A running ``outrider up``."""

    data: Path
    process: subprocess.Popen[bytes]
    output: Path

    @property
    def endpoints(self) -> dict[str, Any]:
        return json.loads((self.data / "endpoints.json").read_text())

    def pid(self, name: str) -> int:
        """Process id of a child, 0 while it does not run."""
        try:
            return int((self.data / "run" / f"{name}.pid").read_text())
        except (OSError, ValueError):
            return 0

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz") is not None
        except OSError:
            return False

    def get(self, path: str, body: dict[str, Any] | None = None) -> Any:
        token = (self.data / "admin.token").read_text().strip()
        request = urllib.request.Request(  # noqa: S310  our own http:// address
            self.endpoints["api"] + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  as above
            return json.loads(answer.read() or "null")

    def family(self) -> list[psutil.Process]:
        return [*psutil.Process(self.process.pid).children(recursive=True)]


def start(data: Path, output: Path) -> Up:
    argv = [sys.executable, "-m", "fleet.cli.root", "up", "--data", str(data)]
    with output.open("ab") as file:
        process = subprocess.Popen(
            argv, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    return Up(data, process, output)


def wait_until_running(up: Up) -> Up:
    eventually(
        lambda: b"Outrider is running" in up.output.read_bytes() or up.process.poll() is not None,
        "started",
        60,
    )
    assert up.process.poll() is None, up.output.read_text()
    return up


def end(up: Up, number: signal.Signals) -> int:
    if up.process.poll() is None:
        up.process.send_signal(number)
    return up.process.wait(30)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One that runs for several tests; each leaves it as it found it."""
    folder = tmp_path_factory.mktemp("up")
    running = start(folder / "data", folder / "out")
    yield wait_until_running(running)
    end(running, signal.SIGINT)


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def test_every_listener_is_on_loopback(up: Up):
    listening = {
        connection.laddr
        for process in up.family()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(listening) == 4
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert up.endpoints["dashboard"] in up.output.read_text()


def test_a_second_one_on_the_same_folder_is_refused(up: Up, tmp_path: Path):
    second = start(up.data, tmp_path / "second")
    assert second.process.wait(60) == 1
    said = " ".join(second.output.read_text().split())
    assert "another `outrider up` runs on this folder" in said
    assert up.is_ready()


def test_kill_9_of_a_child_is_made_good(up: Up):
    up.get("/api/v1/devices/claims", {"device": "kept", "labels": {}, "expires_s": 600})
    before = len(up.get("/api/v1/audit"))
    for name in ("cloud", "broker"):
        old = up.pid(name)
        os.kill(old, signal.SIGKILL)
        eventually(lambda name=name, old=old: up.pid(name) not in {0, old}, f"{name} again", 30)
        eventually(up.is_ready, f"ready after {name}", 30)
    assert len(up.get("/api/v1/audit")) >= before > 0


def test_kill_9_of_itself_takes_the_children_along_and_a_new_start_goes_on(tmp_path: Path):
    first = wait_until_running(start(tmp_path / "data", tmp_path / "out"))
    family, endpoints = first.family(), first.endpoints
    kept = [first.data / "admin.token", first.data / "ca" / "ca.pem", first.data / "cloud.json"]
    before = [path.read_bytes() for path in kept]
    first.process.kill()
    first.process.wait()
    eventually(lambda: gone(family), "the children are gone")
    again = wait_until_running(start(first.data, tmp_path / "again"))
    family = again.family()
    try:
        assert again.endpoints == endpoints
        assert [path.read_bytes() for path in kept] == before
        assert again.is_ready()
    finally:
        assert end(again, signal.SIGINT) == 0
    assert gone(family), "Ctrl-C leaves no process"


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").write_bytes(b"meow")
    refused = start(folder, tmp_path / "out")
    assert refused.process.wait(60) == 1
    assert "cat.jpg" in refused.output.read_text()
    assert {p.name for p in folder.iterdir()} <= {"cat.jpg", ".lock"}


def test_a_child_that_cannot_start_is_named_with_its_log(tmp_path: Path):
    (tmp_path / "data").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken = {"broker_port": squatter.getsockname()[1]}
        (tmp_path / "data" / "cloud.json").write_text(json.dumps(taken))
        refused = start(tmp_path / "data", tmp_path / "out")
        assert refused.process.wait(90) == 1
    said = " ".join(refused.output.read_text().split())
    assert "cloud.supervision" in said
    assert "address already in use" in said
