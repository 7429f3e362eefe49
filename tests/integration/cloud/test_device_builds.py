"""A real daemon that builds its engine: real processes, signals and messages; TensorRT and the GPU are fakes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.artifacts import attested, classify, images, to_be_built
from support.installation import House, eventually
from support.real_agent import Agent, enrolled, push
from support.tensorrt import FAKES, environment

from fleet.artifact import package
from fleet.registry.repositories import Telemetry

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture
def device(wired: House, tmp_path: Path) -> Iterator[Agent]:
    """An enrolled device, its daemon not yet started."""
    with enrolled(wired, tmp_path / "device") as agent:
        with agent.config.open("a") as config:
            config.write("[build]\nmemory_floor_mib = 16\n")
        yield agent


def start(device: Agent, **how: Any) -> None:
    path = os.pathsep.join([str(FAKES), str(ROOT)])
    device.start(**{**environment(**how), "PYTHONPATH": path})


def restart(device: Agent, number: int = signal.SIGTERM, **how: Any) -> None:
    device.end(number)
    start(device, **how)


def artifact(batch: int = 8) -> bytes:
    """Another `batch` is another artifact."""
    golden = images(batch, seed=1)
    outputs = {"probs": classify().golden_outputs["probs"][:batch]}
    content = to_be_built(model="digits", golden_inputs={"image": golden}, golden_outputs=outputs)
    return package.write(attested(content))


def building(device: Agent) -> psutil.Process:
    """The driver's process, once the device is in `building`."""

    def probe() -> Any:
        if device.model().get("state") != "building":
            return None
        assert device.process is not None
        for child in psutil.Process(device.process.pid).children(recursive=True):
            line = child.cmdline()
            if "build" in line and "-c" not in line:
                return child
        return None

    try:
        found: psutil.Process = eventually(probe, "a build", 60)
    except AssertionError as error:
        raise AssertionError(
            f"{error}: {device.status()} {device.errors.read_text()[-3000:]}"
        ) from None
    return found


def held(device: Agent) -> list[str]:
    return sorted(path.name for path in (device.folder / "state" / "engines").iterdir())


def events(house: House) -> dict[str, str]:
    with house.context.read() as session:
        return {
            event.code: event.text for event in Telemetry(session).events("camera-1", limit=100)
        }


def reported(house: House) -> set[str]:
    with house.context.read() as session:
        return {report.state for report in Telemetry(session).reports("camera-1")}


def test_a_device_builds_attests_and_serves_its_engine(device: Agent):
    push(device, artifact(), "1")
    start(device, does="slow")
    driver = building(device)
    eventually(lambda: device.model()["progress"] > 0.05, "it says how far it is")
    served = device.serves("1")
    assert not driver.is_running()
    assert device.ask(served["url"])
    (engine,) = [name.removesuffix(".engine") for name in held(device) if name.endswith(".engine")]
    assert held(device) == sorted([f"{engine}.engine", f"{engine}.json", "timings"])
    told = eventually(lambda: events(device.house).get("engine.built"), "the cloud is told")
    assert engine in told
    eventually(lambda: "building" in reported(device.house), "so is the state")

    # Killed and started again it answers with what it built; after an upgrade it builds anew.
    restart(device, signal.SIGKILL)
    again = device.serves("1")
    assert again["url"] == served["url"]
    assert f"{engine}.engine" in held(device)
    restart(device, version="11.0.0.114")
    device.serves("1")
    eventually(lambda: "engine.outdated" in events(device.house), "it is told")
    states = json.loads(
        (device.folder / "state" / "models" / "digits" / "state").read_text().split("\n", 1)[1]
    )
    assert states["active"]["engine"] not in ("", engine)


def test_kill_9_while_building_builds_again(device: Agent):
    push(device, artifact(), "1")
    start(device, does="slow")
    driver = building(device)
    assert device.process is not None
    device.end(signal.SIGKILL)
    driver.wait(10)
    start(device)
    device.serves("1")
    assert not [name for name in held(device) if name.startswith(("build-", "source-"))]


def test_a_newer_assignment_ends_a_build(device: Agent):
    push(device, artifact(), "1")
    start(device)
    device.serves("1")
    restart(device, does="slow")
    device.serves("1")
    push(device, artifact(4), "2")
    driver = building(device)
    push(device, package.write(attested(classify("classify.onnx", model="digits"))), "3")
    driver.wait(30)
    device.serves("3")
    assert device.model()["error_code"] == ""


@pytest.mark.parametrize(
    ("does", "code"),
    [("none", "build.failed"), ("crash", "build.lost"), ("junk", "runtime.load")],
)
def test_what_cannot_be_built_rolls_back(device: Agent, does: str, code: str):
    push(device, artifact(), "1")
    start(device)
    device.serves("1")
    restart(device, does=does)
    device.serves("1")
    push(device, artifact(4), "2")
    found = eventually(lambda: _with_error(device), "it is given up", 90)
    assert found["error_code"] == code, found
    assert found["release"] == "1"
    assert found["serving"] == "serving"


def _with_error(device: Agent) -> dict[str, Any]:
    found = device.model()
    return found if found.get("error_code") else {}
