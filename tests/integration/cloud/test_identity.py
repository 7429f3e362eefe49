"""A real daemon keeps its identity: renewed over MQTT, over HTTPS, through a new CA, or cut off."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.artifacts import attested, classify
from support.installation import House, eventually
from support.real_agent import Agent, enrolled, push

from cloud.auth import rollover
from cloud.services import enrolment
from fleet.artifact import package
from fleet.registry.repositories import Audit, Devices

pytestmark = pytest.mark.slow


@contextmanager
def lasting(house: House, seconds: float) -> Iterator[None]:
    """Certificates that are issued now last so long."""
    before = house.context.settings
    changed = msgspec.structs.replace(before, device_certificate_s=seconds)
    object.__setattr__(house.context, "settings", changed)
    yield
    object.__setattr__(house.context, "settings", before)


class Asking:
    """An application that asks the model without a pause, and counts what was not answered."""

    def __init__(self, agent: Agent, url: str) -> None:
        self.asked = self.missed = 0
        self._stop = threading.Event()
        self._agent, self._url = agent, url
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                good = self._agent.ask(self._url)
            except OSError:
                good = False
            self.asked += 1
            self.missed += not good
            self._stop.wait(0.02)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


def started_again(house: House) -> None:
    """The cloud's certificates and its broker after a start."""
    hosts = ["127.0.0.1", "localhost", "::1"]
    house.pki.prepare(hosts, now=house.context.clock())
    rollover.complete(house.pki)
    os.kill(house.supervisor.pids()["broker"], signal.SIGKILL)
    house.wait_for_broker()


def renewals(house: House) -> int:
    with house.context.read() as session:
        return [entry.action for entry in Audit(session).all()].count("device.renew")


def serving(agent: Agent) -> dict[str, Any]:
    push(agent, package.write(attested(classify("classify.tflite", model="digits"))), "1")
    agent.start()
    return agent.serves("1")


def test_it_renews_over_mqtt_and_no_answer_is_dropped(wired: House, tmp_path: Path):
    with lasting(wired, 45.0), enrolled(wired, tmp_path / "device") as agent:
        served = serving(agent)
        first = agent.status()["certificate_expires"]
        asking = Asking(agent, served["url"])
        try:
            eventually(lambda: agent.status()["certificate_expires"] > first, "renewed", 60)
            eventually(lambda: agent.status()["connected"], "connected with it")
        finally:
            asking.end()
        assert asking.asked > 10
        assert asking.missed == 0
        assert renewals(wired) >= 1
        assert agent.errors.read_text().count("AskForCertificate") == 0
        assert "identity.asks" not in agent.errors.read_text(), "HTTPS was not needed"


def test_after_its_end_and_a_new_ca_it_comes_back_over_https(wired: House, tmp_path: Path):
    with lasting(wired, 10.0), enrolled(wired, tmp_path / "device") as agent:
        with lasting(wired, 600.0):
            rollover.begin(wired.pki, now=wired.context.clock())
            started_again(wired)
            with wired.context.read() as session:
                ends = Devices(session).keys("camera-1")[0].not_after
            eventually(lambda: wired.context.clock() > ends, "the certificate has ended", 30)
            agent.start()
            eventually(lambda: agent.status().get("connected"), "back without hands", 90)
        status = agent.status()
        assert status["certificate_expires"] > ends
        assert "identity.asks" in agent.errors.read_text()
        assert renewals(wired) == 1
        held = msgspec.json.decode((agent.folder / "state/identity/enrolment.json").read_bytes())
        assert held["authorities_pem"].count("BEGIN CERTIFICATE") == 2


def test_a_revoked_device_is_cut_off_and_goes_on_answering(wired: House, tmp_path: Path):
    with enrolled(wired, tmp_path / "device") as agent:
        served = serving(agent)
        with wired.context.unit() as unit:
            enrolment.revoke(unit, "camera-1", actor="test")
        eventually(lambda: not agent.status()["connected"], "cut off")
        assert agent.ask(served["url"])
        told = agent.call("status").stdout
        assert "holds      link." in told
