from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from agent.core.commands import Forget
from agent.core.uplink import Uplink
from cloud.services import ingest
from fleet.registry.repositories import Telemetry
from simulator.virtual import world
from simulator.virtual.disk import CuttableStore
from simulator.virtual.world import Spec

SMALL = {"devices": 3, "hours": 0.15}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_fleet_keeps_its_promises_under_network_and_power_faults(seed):
    outcome = world.run(Spec(seed=seed, **SMALL))
    assert outcome.violation == "", outcome.spec.command()
    for what in (
        "power_cuts",
        "partitions",
        "messages_lost",
        "messages_doubled",
        "building",
        "committed",
    ):
        assert outcome.figures[what] > 0, f"{what}: the faults did not bite"
    assert outcome.checks > 100


@pytest.mark.parametrize("faults", [("network",), ("power",)])
def test_each_fault_can_be_had_alone(faults):
    outcome = world.run(Spec(seed=4, faults=faults, **SMALL))
    assert outcome.violation == "", outcome.spec.command()
    assert (outcome.figures["messages_lost"] > 0) == ("network" in faults)
    assert (outcome.figures["power_cuts"] > 0) == ("power" in faults)


def test_a_seed_replays_to_the_last_step_and_another_does_not():
    spec = Spec(seed=5, **SMALL)
    first = world.run(spec)
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-m", "fleet.cli.root", *spec.command().split()[1:], "--json"]
    other_process = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    )
    replayed = json.loads(other_process.stdout)
    assert (replayed["digest"], replayed["steps"]) == (first.digest, first.steps)
    assert world.run(Spec(seed=6, **SMALL)).digest != first.digest


# What would be wrong with the product, and what the simulator must say of it.


def test_a_cloud_that_acknowledges_before_its_commit_is_found(monkeypatch):
    real = ingest.telemetry

    def hasty(context, message):
        if message.windows[0].seq % 3:
            return real(context, message)
        return {w.boot_epoch: [w.seq] for w in message.windows}

    monkeypatch.setattr(ingest, "telemetry", hasty)
    _violates("which the cloud never committed")


def test_a_cloud_that_counts_a_row_twice_is_found(monkeypatch):
    monkeypatch.setattr(Telemetry, "first_time", lambda *_: True)
    _violates("the gateway logged")


def test_a_device_that_forgets_what_it_sent_is_found(monkeypatch):
    real = Uplink._send

    def careless(self, rows):
        real(self, rows)
        if rows:
            self._ctx.do(Forget(keys=[(row.boot_epoch, row.seq) for row in rows]))

    monkeypatch.setattr(Uplink, "_send", careless)
    _violates("which the cloud never committed")


def test_a_disk_that_lies_about_saving_is_found(monkeypatch):
    monkeypatch.setattr(CuttableStore, "save_model", lambda *_: None)
    _violates("has lost its active", "which had ended as committed")


def test_a_registry_that_takes_back_an_end_is_found(monkeypatch):
    monkeypatch.setattr(ingest, "_is_older", lambda *_: False)
    _violates("which had ended as")


def _violates(*texts):
    for seed in range(7, 12):
        outcome = world.run(Spec(seed=seed, devices=4, hours=0.3))
        if outcome.violation:
            assert any(text in outcome.violation for text in texts), outcome.violation
            assert outcome.trace
            return
    pytest.fail(f"five worlds did not show: {texts}")
