"""Judging a device's figures by the rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import msgspec

from fleet.health.rules import RULES, Rule
from fleet.wire.messages import EventLevel

_ORDER = (EventLevel.INFO, EventLevel.WARNING, EventLevel.ERROR)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that a device's figures break."""

    rule: str
    level: EventLevel
    text: str


def judge(figures: Mapping[str, float], rules: Iterable[Rule] = RULES) -> list[Finding]:
    """The rules that are broken, worst first; none means healthy as far as was measured."""
    findings = []
    for rule in rules:
        value = figures.get(rule.figure)
        if value is None or math.isnan(value) or _holds(rule, value):
            continue
        bound = (
            f"at least {rule.at_least:.10g}"
            if _too_low(rule, value)
            else f"at most {rule.at_most:.10g}"
        )
        findings.append(
            Finding(
                rule=rule.name,
                level=rule.level,
                text=f"{rule.figure}: expected {bound}, found {value:.10g}; {rule.remedy}",
            )
        )
    return sorted(findings, key=lambda finding: (-_ORDER.index(finding.level), finding.rule))


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing worse than information was found."""
    return all(finding.level is EventLevel.INFO for finding in findings)


def _holds(rule: Rule, value: float) -> bool:
    return not _too_low(rule, value) and (rule.at_most is None or value <= rule.at_most)


def _too_low(rule: Rule, value: float) -> bool:
    return rule.at_least is not None and value < rule.at_least
