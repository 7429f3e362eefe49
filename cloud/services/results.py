"""What a compile report names: for each target the artifact that was chosen, and its portable fallback.

Rules:
- Of a rejected target nothing is taken; a fallback is taken only when it was accepted itself, because it is what
  devices run while the target's first choice is unproven.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Named(NamedTuple):
    """One artifact of a report: where its file lies, and the target's entry that judges it."""

    target: str
    path: str
    fallback: bool


def named(report: dict[str, Any]) -> list[Named]:
    """The artifacts that a report names, in its order.

    Raises:
        KeyError, TypeError, AttributeError: it is no such report.
    """
    found = []
    for entry in report["targets"]:
        target = str(entry["target"])
        chosen, fallback = entry.get("chosen"), entry.get("fallback")
        if chosen and entry.get("status") != "rejected":
            found.append(Named(target, str(chosen["path"]), fallback=False))
        if fallback and fallback.get("verdict") == "accepted":
            found.append(Named(target, str(fallback["path"]), fallback=True))
    return found
