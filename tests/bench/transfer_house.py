"""A running installation for the transfer benchmark, and the real daemon in it."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from support.artifacts import attested, classify
from support.installation import House, Loop, eventually
from support.real_agent import Agent, enrolled, push

from cloud import bootstrap
from cloud import context as cloud_context
from cloud.broker import callout, server
from cloud.supervise import Supervisor
from fleet.artifact import package
from fleet.artifact.manifest import Payload
from fleet.registry.repositories import Telemetry

PATIENCE_S = 900.0
T = TypeVar("T")


@contextmanager
def running(folder: Path) -> Iterator[House]:
    """An installation with broker, auth callout and gateway."""
    with ExitStack() as stack:
        installation = bootstrap.initialise(folder / "data")
        context = cloud_context.build(installation.settings)
        stack.callback(context.engine.dispose)
        loop = Loop()
        stack.callback(loop.close)
        supervisor = stack.enter_context(Supervisor(pid_dir=folder / "run"))
        supervisor.start(server.spec(installation.settings.path("broker"), folder / "broker.log"))
        house = House(context, installation, supervisor, loop, folder)
        house.wait_for_broker()
        service = loop.run(callout.start(context))
        stack.callback(lambda: loop.run(service.stop()))
        gateway = house.start_gateway()
        stack.callback(lambda: loop.run(gateway.stop()))
        yield house


@contextmanager
def agent(house: House, folder: Path) -> Iterator[Agent]:
    """The real daemon of an enrolled device, started."""
    with enrolled(house, folder) as device:
        device.start()
        eventually(lambda: device.status().get("connected"), "the daemon is connected")
        yield device


def artifact(size_bytes: int, *, seed: int) -> bytes:
    """An attested artifact whose payload is a small model and random bytes behind it."""
    plain = classify("classify.tflite", model="digits", version=str(seed))
    payload = plain.payload + random.Random(seed).randbytes(size_bytes - len(plain.payload))
    described = Payload(
        member=plain.manifest.payload.member,
        sha256=hashlib.sha256(payload).hexdigest(),
        size_bytes=len(payload),
    )
    manifest = msgspec.structs.replace(plain.manifest, payload=described)
    return package.write(
        attested(msgspec.structs.replace(plain, manifest=manifest, payload=payload))
    )


def fetch(device: Agent, data: bytes, number: int) -> dict[str, Any]:
    """Assign an artifact and wait until its bytes are in their slot; the figures of that step."""
    push(device, data, str(number))
    release = f"digits@{number}"

    def staged() -> dict[str, Any] | None:
        with device.house.context.read() as session:
            for report in Telemetry(session).reports(device.device):
                if report.release in {release, str(number)} and report.state == "staged":
                    return dict(report.figures)
        return None

    found = _patiently(staged, f"{release} is staged")
    settled(device, number)
    return found


def settled(device: Agent, number: int) -> None:
    """Wait until the update has ended, so that the next one does not meet it."""

    def ended() -> bool | None:
        with device.house.context.read() as session:
            return any(
                report.terminal and report.release in {f"digits@{number}", str(number)}
                for report in Telemetry(session).reports(device.device)
            )

    _patiently(ended, f"the end of {number}")


def _patiently(probe: Callable[[], T | None], what: str) -> T:
    """Look now and then only: this process is the gateway, too."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.25)
    return found


def peak_mib(device: Agent) -> float:
    """The daemon's peak of resident memory."""
    assert device.process is not None
    status = Path(f"/proc/{device.process.pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)
