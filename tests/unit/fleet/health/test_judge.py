from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.health.judge import is_healthy, judge
from fleet.health.rules import RULES, SQLITE_FIXED
from fleet.wire.messages import EventLevel

pytestmark = pytest.mark.agent

HEALTHY = {
    "disk_free_mib": 4096.0,
    "memory_available_mib": 900.0,
    "temperature_c": 55.0,
    "buffer_used_fraction": 0.1,
    "buffer_waiting": 3.0,
    "sqlite_version_number": float(SQLITE_FIXED),
}


def test_a_healthy_device_has_no_findings():
    assert judge(HEALTHY) == []


def test_what_a_device_cannot_measure_is_not_held_against_it():
    assert judge({}) == []
    assert judge({"temperature_c": math.nan}) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_fires_beyond_its_limit_and_only_there(rule):
    limit = rule.at_least if rule.at_least is not None else rule.at_most
    step = -1e-3 if rule.at_least is not None else 1e-3
    assert rule.name not in {f.rule for f in judge({rule.figure: limit})}
    [finding] = [f for f in judge({rule.figure: limit + step}) if f.rule == rule.name]
    assert finding.level is rule.level
    assert rule.remedy in finding.text


def test_the_worst_finding_stands_first():
    findings = judge({"temperature_c": 99.0, "sqlite_version_number": 3_040_000.0})
    assert [f.rule for f in findings] == [
        "temperature.critical",
        "temperature.high",
        "sqlite.version",
    ]
    assert not is_healthy(findings)


def test_an_old_sqlite_alone_is_information():
    findings = judge({**HEALTHY, "sqlite_version_number": 3_040_001.0})
    assert [f.level for f in findings] == [EventLevel.INFO]
    assert is_healthy(findings)


@given(st.dictionaries(st.sampled_from([r.figure for r in RULES]), st.floats()))
def test_any_figures_are_judged(figures):
    assert {f.rule for f in judge(figures)} <= {r.name for r in RULES}


def test_names_are_unique_and_figures_carry_units():
    assert len({r.name for r in RULES}) == len(RULES)
    assert all("_" in r.figure for r in RULES)
