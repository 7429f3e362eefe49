"""The deployment files fit the product: options, ports, metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import REGISTRY

from cloud.cli.up import command
from cloud.gateway import metrics

DEPLOY = Path(__file__).resolve().parents[3] / "cloud" / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def entry_point() -> list[str]:
    found = re.search(r"^ENTRYPOINT (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


def test_the_container_starts_up_with_options_that_exist():
    program, name, *arguments = [
        *entry_point(),
        *read("compose.yaml")["services"]["outrider"]["command"],
    ]
    assert (program, name) == ("outrider", "up")
    parsed = command.make_context("up", arguments).params
    ports = ("port", "enrol_port", "broker_port", "worker_port")
    assert [parsed[name] for name in ports] == [8080, 8443, 8883, 4222]


def test_published_ports_are_those_that_it_listens_on_and_plain_http_stays_at_home():
    ports = read("compose.yaml")["services"]["outrider"]["ports"]
    assert ports == ["127.0.0.1:8080:8080", "8443:8443", "8883:8883", "4222:4222"]
    exposed = re.search(r"^EXPOSE (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed is not None
    assert exposed[1].split() == ["8080", "8443", "8883", "4222"]


def test_rules_speak_of_metrics_that_exist():
    metrics.MESSAGES.labels("event", "forged")
    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    rules = [rule for group in read("rules.yml")["groups"] for rule in group["rules"]]
    named = {name for rule in rules for name in re.findall(r"outrider_\w+", rule["expr"])}
    assert named
    assert named <= known
    assert read("prometheus.yml")["rule_files"] == ["rules.yml"]
