"""A real daemon that never has a link, a real cloud, and a medium between them that may have been tampered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.artifacts import attested, classify
from support.installation import House, eventually
from support.real_agent import Agent, enrol, enrolled, enrolling, push
from support.served import Served, serve

from cloud.auth.roles import Role
from cloud.cli import bundle
from fleet.artifact import package
from fleet.registry.repositories import Devices, Telemetry, Trust

pytestmark = pytest.mark.slow


@pytest.fixture
def served(wired: House) -> Iterator[Served]:
    with serve(SimpleNamespace(context=wired.context)) as site:  # type: ignore[arg-type]  # its context is all that is used
        yield site


@pytest.fixture
def device(wired: House, tmp_path: Path) -> Iterator[Agent]:
    """A device that was enrolled and never connects."""
    with enrolled(wired, tmp_path / "device") as agent:
        wired.loop.run(agent.cloud_https.stop())
        agent.start(OUTRIDER_AGENT_BROKER_PORT="1")
        eventually(lambda: agent.status().get("running"), "the daemon runs", 30)
        yield agent


def artifact(version: str) -> bytes:
    made = classify("classify.tflite", model="digits", licence=f"version {version}")
    return package.write(attested(made))


def outrider(site: Served, *arguments: str) -> Result:
    where = ["--server", site.url, "--token", site.tokens[Role.OPERATOR], "--json"]
    return CliRunner().invoke(bundle.command, [*arguments, *where])


def export(site: Served, medium: Path, device: str = "camera-1") -> None:
    done = outrider(site, "export", str(medium), "--device", device)
    assert done.exit_code == 0, done.output


def exchange(agent: Agent, medium: Path) -> dict[str, Any]:
    done = agent.call("exchange", str(medium), "--json")
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout))


def test_a_device_without_a_link_is_updated_and_reports_by_a_medium(
    device: Agent, served: Served, tmp_path: Path
):
    medium = tmp_path / "stick"
    push(device, artifact("1"), "1")
    export(served, medium)

    found = exchange(device, medium)
    assert found["exchange"]["missing"] == []
    assert found["exchange"]["error"] == ""
    model = found["status"]["models"][0]
    assert (model["release"], model["state"]) == ("1", "committed")
    assert device.ask(model["url"])
    assert device.status()["connected"] is False

    done = outrider(served, "import", str(medium))
    assert done.exit_code == 0, done.output
    taken = json.loads(done.output)
    assert taken["refused"] == []
    with device.house.context.read() as session:
        row = Devices(session).model("camera-1", "digits")
        assert row is not None
        assert (row.running_release, row.state) == ("digits@1", "committed")
        assert Devices(session).get("camera-1").online is False
        assert Telemetry(session).events("camera-1")

    waiting = device.status()["buffered"]
    again = json.loads(outrider(served, "import", str(medium)).output)
    assert again["taken"] == taken["taken"], "what comes twice is acknowledged again"
    exchange(device, medium)
    assert device.status()["buffered"] < waiting, "what the cloud has committed is let go"


def test_a_medium_can_delay_and_nothing_else(device: Agent, served: Served, tmp_path: Path):
    medium, old = tmp_path / "stick", tmp_path / "old"
    push(device, artifact("1"), "1")
    export(served, medium)
    first = (medium / "devices" / "camera-1" / "desired").read_bytes()
    counter = exchange(device, medium)["status"]["assignment_counter"]
    device.serves("1")
    _claim_another(device)
    export(served, old, "camera-2")

    push(device, artifact("2"), "2")
    export(served, medium)
    desired = medium / "devices" / "camera-1" / "desired"
    good = desired.read_bytes()
    with device.house.context.read() as session:
        wish = Trust(session).desired_model("camera-1", "digits")
        assert wish is not None
    blob = medium / "blobs" / wish.artifact
    bytes_ = blob.read_bytes()

    desired.write_bytes((old / "devices" / "camera-2" / "desired").read_bytes())
    assert exchange(device, medium)["status"]["assignment_counter"] == counter
    desired.write_bytes(good[:-40] + bytes(40))
    assert exchange(device, medium)["status"]["assignment_counter"] == counter

    desired.write_bytes(good)
    blob.write_bytes(bytes_[:200] + bytes([bytes_[200] ^ 1]) + bytes_[201:])
    found = exchange(device, medium)
    assert found["status"]["models"][0]["state"] == "fetching"
    assert found["status"]["models"][0]["release"] == "1"
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    assert "left alone" in exchange(device, medium)["exchange"]["error"]
    blob.unlink()
    assert exchange(device, medium)["exchange"]["missing"] == [wish.artifact]
    assert device.ask(device.model()["url"]), "version 1 answers all the while"

    blob.write_bytes(bytes_)
    assert exchange(device, medium)["status"]["models"][0]["release"] == "2"
    desired.write_bytes(first)
    found = exchange(device, medium)
    assert found["status"]["assignment_counter"] > counter
    assert found["status"]["models"][0]["release"] == "2"

    message = next(iter(sorted((medium / "reports" / "camera-1").glob("*-reported-*"))))
    message.write_bytes(message.read_bytes().replace(b"waiting", b"pending"))
    done = outrider(served, "import", str(medium))
    assert done.exit_code == 1
    assert [line["message"] for line in json.loads(done.output)["refused"]] == [message.name]
    with device.house.context.read() as session:
        row = Devices(session).model("camera-1", "digits")
        told = {event.code for event in Telemetry(session).events("camera-1")}
    assert row is not None
    assert row.running_release == "digits@2"
    assert {"wire.signature", "ota.rollback_refused"} <= told


def _claim_another(agent: Agent) -> None:
    """Another device of the fleet."""
    another = Agent(agent.house, agent.folder.parent / "another", "camera-2")
    with enrolling(agent.house) as port:
        enrol(another, port)
