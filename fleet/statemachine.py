"""State machines as data: a table of transitions, and the diagram that is drawn from it.

Rules:
- A table stands alone in a file; it lists every pair of state and event that means something.
- An unlisted pair raises `UnlistedTransitionError`; callers log and report it and leave the state
  alone, and in tests it fails.
- The same state and event always lead to the same state: where a decision is to be taken it is
  taken before, and each of its outcomes is an event of its own.
- A state that no transition leaves is terminal.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Generic, TypeVar

from fleet.errors import UnlistedTransitionError

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Hashable)


class Table(Generic[S, E]):
    """The transitions of one kind of machine.

    Args:
        name: what the machine is, for messages and diagrams, for instance ``rollout``.
        initial: the state of a new machine.
        transitions: ``{(state, event): next state}``. Events are members of an enum, or event classes.

    Attributes:
        states: every state, in the order of their enum.
        events: every event, in the order of their first mention.
        terminal: the states that no transition leaves.
    """

    def __init__(self, name: str, *, initial: S, transitions: Mapping[tuple[S, E], S]) -> None:
        self.name = name
        self.initial = initial
        self.transitions: Mapping[tuple[S, E], S] = MappingProxyType(dict(transitions))
        self.states: tuple[S, ...] = tuple(type(initial))
        self.events: tuple[E, ...] = tuple(dict.fromkeys(event for _, event in self.transitions))
        left = {state for state, _ in self.transitions}
        self.terminal: frozenset[S] = frozenset(s for s in self.states if s not in left)

    def allows(self, state: S, event: E) -> bool:
        """Whether the pair is listed."""
        return (state, event) in self.transitions

    def next(self, state: S, event: E) -> S:
        """The state that `event` leads to from `state`.

        Raises:
            UnlistedTransitionError: the pair is not listed.
        """
        try:
            return self.transitions[state, event]
        except KeyError:
            listed = ", ".join(sorted(label(e) for s, e in self.transitions if s == state))
            raise UnlistedTransitionError(
                f"{self.name}: in state {label(state)!r} expected one of: {listed or 'nothing more'}; "
                f"found {label(event)!r}; the state is kept"
            ) from None

    def events_from(self, state: S) -> tuple[E, ...]:
        """The events that are listed for `state`, in the table's order."""
        return tuple(event for s, event in self.transitions if s == state)

    def pairs(self) -> frozenset[tuple[S, S]]:
        """Every (state, next state) that some event allows; what a database may let through."""
        return frozenset((state, after) for (state, _), after in self.transitions.items())


def label(thing: object) -> str:
    """How a state or event is written: an enum member's value, a class's name, else its text."""
    if isinstance(thing, Enum):
        return str(thing.value)
    return thing.__name__ if isinstance(thing, type) else str(thing)


def mermaid(table: Table[S, E]) -> str:
    """The table as a Mermaid state diagram (https://mermaid.js.org/syntax/stateDiagram.html).

    Events between the same two states share one arrow; the order is the table's, so that the text
    changes only when the table does.
    """
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), after in table.transitions.items():
        arrows.setdefault((label(state), label(after)), []).append(label(event))
    lines = ["stateDiagram-v2", f"    [*] --> {label(table.initial)}"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in arrows.items()]
    ends = [label(s) for s in table.states if s in table.terminal]
    lines += [f"    {end} --> [*]" for end in ends]
    return "\n".join(lines) + "\n"
