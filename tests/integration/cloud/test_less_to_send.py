"""A real daemon that is sent less than the whole artifact, over a real broker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.artifacts import attested, classify, images, probabilities
from support.installation import House, eventually
from support.real_agent import Agent, enrolled, push

from cloud.services import trust, ways
from fleet.artifact import package
from fleet.registry.repositories import Devices, Telemetry, Trust, Ways
from fleet.registry.tables import DeviceEvent, DeviceModel
from ota.transfer import blocks

pytestmark = pytest.mark.slow


@pytest.fixture
def device(wired: House, tmp_path: Path) -> Iterator[Agent]:
    """A device that serves version 1 and is not running."""
    with enrolled(wired, tmp_path / "device") as agent:
        push(agent, artifact("1"), "1")
        agent.start()
        agent.serves("1")
        eventually(lambda: running(agent).running_sha256, "version 1 is reported")
        agent.end(signal.SIGTERM)
        push(agent, artifact("2"), "2")
        yield agent


def artifact(version: str) -> bytes:
    """About a megabyte, of which the golden inputs are the same in every version."""
    golden = images(1_500, seed=1)
    return package.write(
        attested(
            classify(
                "classify.tflite",
                model="digits",
                licence=f"version {version}",
                golden_inputs={"image": golden},
                golden_outputs={"probs": probabilities(golden)},
            )
        )
    )


def running(agent: Agent) -> DeviceModel:
    with agent.house.context.read() as session:
        return Devices(session).model(agent.device, "digits") or DeviceModel(
            device=agent.device, model="digits"
        )


def wish(agent: Agent) -> str:
    """The digest of what the device should run."""
    with agent.house.context.read() as session:
        found = Trust(session).desired_model(agent.device, "digits")
    assert found is not None
    return found.artifact


def build_ways(agent: Agent) -> None:
    while ways.build_next(agent.house.context):
        pass


def updated(agent: Agent) -> dict[str, float]:
    """Sign the assignment anew, let the device take it, and return what it reports to have been sent."""
    with agent.house.context.unit() as unit:
        trust.assign(unit, agent.house.context.settings, agent.device)
    agent.start()
    agent.serves("2")
    eventually(lambda: running(agent).running_release == "digits@2", "version 2 is reported")
    with agent.house.context.read() as session:
        reports = [r for r in Telemetry(session).reports(agent.device) if r.release == "digits@2"]
    staged = [r.figures for r in reports if r.state == "staged"]
    return {key: value for key, value in staged[0].items() if value is not None}


def complaints(agent: Agent) -> list[DeviceEvent]:
    with agent.house.context.read() as session:
        events = Telemetry(session).events(agent.device)
        return [event for event in events if event.code.startswith("ota.")]


def test_a_delta_is_enough(device: Agent):
    build_ways(device)
    figures = updated(device)
    whole = len(artifact("2"))
    assert figures["bytes_spared"] > 0.8 * whole
    assert figures["bytes_sent"] + figures["bytes_spared"] == whole
    assert not complaints(device)
    assert not list((device.folder / "state" / "downloads").iterdir())


def test_without_a_delta_for_the_pair_unchanged_chunks_are_not_sent(device: Agent):
    held = running(device).running_sha256
    build_ways(device)
    with device.house.context.unit() as unit:
        for row in Ways(unit.session).to(wish(device)):
            if row.base == held or row.kind == "delta":
                unit.session.delete(row)
    figures = updated(device)
    assert figures["bytes_spared"] > 0.5 * len(artifact("2"))
    assert not complaints(device)


@pytest.mark.parametrize("what", ["another", "cut", "noise"])
def test_a_delta_that_leads_nowhere_is_told_and_the_rest_is_fetched(device: Agent, what: str):
    build_ways(device)
    context = device.house.context
    held = running(device).running_sha256
    with context.unit() as unit:
        rows = {(row.kind, row.base): row for row in Ways(unit.session).to(wish(device))}
        delta, compressed = rows.pop(("delta", held)), rows.pop(("delta", ""))
        good = context.blobs.read(delta.sha256)
        bad = {
            "another": context.blobs.read(compressed.sha256),
            "cut": good[: len(good) // 2],
            "noise": good[:150] + bytes(255 - byte for byte in good[150:]),
        }[what]
        for row in (compressed, *rows.values()):
            unit.session.delete(row)
        delta.block_size_bytes = blocks.choose_block_size(len(bad))
        listed = blocks.block_list(bad, delta.block_size_bytes)
        delta.sha256, delta.length_bytes = context.blobs.put(bad), len(bad)
        delta.blocks_sha256, delta.blocks_length_bytes = context.blobs.put(listed), len(listed)
    updated(device)
    found = eventually(lambda: complaints(device), "the reason is told")
    assert found[0].code == "ota.delta"
    assert "was of no use" in found[0].text
    assert found[0].release == "digits@2"
