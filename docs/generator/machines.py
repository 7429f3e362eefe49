"""Errors and state machines."""

from __future__ import annotations

import importlib
from typing import Any

from markdown import module_of, sources, subclasses, summary, table


def errors() -> str:
    """Every error code: whose fault it is, whether it may be retried, what it means, its class."""
    from fleet.errors import CallerError, DeviceError, NetworkError, OutriderError, RepositoryError

    for path in sources("errors.py"):
        importlib.import_module(module_of(path))
    blames = {
        CallerError: "caller",
        DeviceError: "device",
        NetworkError: "network",
        RepositoryError: "repository",
    }
    found: dict[str, list[str]] = {}
    for kind in subclasses(OutriderError):
        if not kind.__module__.endswith("errors"):
            continue
        blame = next((name for base, name in blames.items() if issubclass(kind, base)), "")
        retry = "yes" if kind.retryable else "no"
        where = f"`{kind.__module__}.{kind.__name__}`"
        found.setdefault(kind.code, [f"`{kind.code}`", blame, retry, summary(kind), where])
    rows = [found[code] for code in sorted(found)]
    return table(["code", "whose fault", "retryable", "meaning", "class"], rows)


def states() -> str:
    """Every state machine: its diagram and its table."""
    from fleet.statemachine import label, mermaid

    parts = []
    for name, machine in sorted(tables().items()):
        rows = [
            [f"`{label(state)}`", f"`{label(event)}`", f"`{label(after)}`"]
            for (state, event), after in machine.transitions.items()
        ]
        ends = ", ".join(f"`{label(s)}`" for s in machine.states if s in machine.terminal)
        starts = f"Starts in `{label(machine.initial)}`{f'; ends in {ends}' if ends else ''}."
        diagram = f"```mermaid\n{mermaid(machine)}```"
        listed = table(["in state", "on", "goes to"], rows)
        parts.append(f"## {name}\n\n{starts}\n\n{diagram}\n\n{listed}")
    return "\n".join(parts)


def tables() -> dict[str, Any]:
    """Every transition table of the product, by its name."""
    from fleet.statemachine import Table

    found = {}
    for path in sources():
        text = path.read_text()
        if "Table(" in text and "statemachine" in text and path.name != "statemachine.py":
            held = vars(importlib.import_module(module_of(path))).values()
            found |= {machine.name: machine for machine in held if isinstance(machine, Table)}
    return found
