from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from cloud.services import ingest
from simulator.cli.sim import command

SMALL = ["--devices", "2", "--hours", "0.1"]


def test_run_says_what_happened_and_that_all_held():
    result = CliRunner().invoke(command, ["run", "--seed", "1", *SMALL], standalone_mode=False)
    assert result.return_value == 0
    assert "seed 1: held" in result.output


def test_run_prints_one_json_document():
    result = CliRunner().invoke(
        command, ["run", "--seed", "1", "--seeds", "2", "--faults", "power", "--json", *SMALL],
        standalone_mode=False,
    )  # fmt: skip
    document = json.loads(result.stdout)
    assert document["ok"] is True
    assert [w["spec"]["seed"] for w in document["worlds"]] == [1, 2]
    assert document["worlds"][0]["spec"]["faults"] == ["power"]


def test_a_violation_prints_the_seed_and_the_command_that_replays_it(monkeypatch):
    def broken(context, message):
        raise RuntimeError("out of cheese")

    monkeypatch.setattr(ingest, "event", broken)
    arguments = ["--seed", "3", *SMALL]
    result = CliRunner().invoke(command, ["run", *arguments, "--seeds", "9"], standalone_mode=False)
    assert result.return_value == 1
    assert "out of cheese" in result.output
    [line] = [line for line in result.output.splitlines() if line.startswith("replay it: ")]
    replay = line.removeprefix("replay it: outrider sim ").split()
    again = CliRunner().invoke(command, replay, standalone_mode=False)
    assert again.return_value == 1
    assert "out of cheese" in again.output
    assert "power.on boot 1" in again.output


@pytest.mark.parametrize("faults", ["fire", "network,fire"])
def test_an_unknown_fault_is_refused_with_those_that_are_known(faults):
    result = CliRunner().invoke(command, ["run", "--faults", faults])
    assert result.exit_code == 2
    assert "network, power" in result.output
