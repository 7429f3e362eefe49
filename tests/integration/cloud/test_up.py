"""``outrider up`` as a user runs it: real processes, killed in every way."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from support.installation import eventually

from agent import enrol
from agent.adapters.identity import Identity
from fleet.wire import codec, envelope, topics
from fleet.wire.messages import Ack, Event
from fleet.wire.topics import Down
from fleet.wire.topics import Up as UpKind

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


class Sender:
    """An enrolled device that sends rows again until each is acknowledged."""

    def __init__(self, up: Up, folder: Path, *, rows: int) -> None:
        claimed = up.get("/api/v1/devices/claims", {"device": "sender", "expires_s": 600})
        self.identity = Identity(folder)
        self.enrolment = enrol.enrol(
            self.identity,
            url=claimed["url"],
            code=claimed["code"],
            ca_sha256=claimed["ca_sha256"],
            hardware_class="cpu-x86-64",
        )
        self.signer = self.identity.signer()
        self.acked: set[int] = set()
        self.rows = rows
        self._closing = threading.Event()
        self._client = self._connect()
        self._thread = threading.Thread(target=self._send)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="sender", protocol=mqtt.MQTTv311
        )
        client.tls_set_context(self.identity.tls(time.time))
        client.reconnect_delay_set(0.2, 1)
        client.on_connect = lambda c, *_: c.subscribe(topics.down_filter("default", "sender"))
        client.on_message = lambda _c, _u, message: self._hear(message)
        broker = self.enrolment.broker
        client.connect_async(broker.host, broker.port, keepalive=10)
        client.loop_start()
        return client

    def _hear(self, message: mqtt.MQTTMessage) -> None:
        if topics.parse_down(message.topic) is Down.ACK:
            ack = codec.from_json(Ack, envelope.from_bytes(message.payload).payload)
            self.acked.update(ack.acked.get("e1", []))

    def _send(self) -> None:
        topic = topics.up("default", "sender", UpKind.EVENT)
        while not self._closing.wait(0.5):
            waiting = [seq for seq in range(1, self.rows + 1) if seq not in self.acked]
            for seq in waiting[:10]:
                event = Event(
                    device="sender", boot_epoch="e1", seq=seq, at=1.0, code="test", text="hello"
                )
                sealed = envelope.seal(
                    "event", "sender", codec.to_json(event), self.signer, counter=seq
                )
                self._client.publish(topic, envelope.to_bytes(sealed), qos=0)


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
        old = eventually(lambda name=name: up.pid(name), name)
        os.kill(old, signal.SIGKILL)
        eventually(lambda name=name, old=old: up.pid(name) not in {0, old}, f"{name} again", 30)
        eventually(up.is_ready, f"ready after {name}", 30)
    assert len(up.get("/api/v1/audit")) >= before > 0


def test_no_row_is_lost_or_doubled_however_often_processes_are_killed(up: Up, tmp_path: Path):
    sender = Sender(up, tmp_path, rows=120)
    try:
        for share, name in ((0.2, "cloud"), (0.5, "broker"), (0.7, "cloud")):
            eventually(lambda share=share: len(sender.acked) >= share * 120, f"{share} acked", 90)
            os.kill(eventually(lambda name=name: up.pid(name), name), signal.SIGKILL)
        eventually(lambda: len(sender.acked) == 120, "every row is acknowledged", 90)
    finally:
        sender.close()
    eventually(up.is_ready, "ready again", 30)
    with closing(sqlite3.connect(up.data / "registry.sqlite")) as registry:
        stored = [row[0] for row in registry.execute("select seq from device_event order by seq")]
    assert stored == list(range(1, 121))


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
