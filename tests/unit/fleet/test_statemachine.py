from __future__ import annotations

from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import UnlistedTransitionError
from fleet.statemachine import Table, mermaid

pytestmark = pytest.mark.agent


class Door(str, Enum):
    OPEN = "open"
    SHUT = "shut"
    BRICKED_UP = "bricked_up"


class Push(str, Enum):
    PUSH = "push"
    PULL = "pull"
    BUILD = "build"


DOOR = Table(
    "door",
    initial=Door.SHUT,
    transitions={
        (Door.SHUT, Push.PUSH): Door.OPEN,
        (Door.OPEN, Push.PULL): Door.SHUT,
        (Door.SHUT, Push.BUILD): Door.BRICKED_UP,
    },
)


@given(st.sampled_from(Door), st.sampled_from(Push))
def test_a_pair_is_either_listed_or_refused_with_words(state: Door, event: Push):
    if DOOR.allows(state, event):
        assert DOOR.next(state, event) is DOOR.transitions[state, event]
        assert (state, DOOR.next(state, event)) in DOOR.pairs()
        assert event in DOOR.events_from(state)
    else:
        with pytest.raises(UnlistedTransitionError, match=f"'{state.value}'.*'{event.value}'"):
            DOOR.next(state, event)


def test_terminal_states_are_those_that_nothing_leaves():
    assert DOOR.terminal == {Door.BRICKED_UP}
    with pytest.raises(UnlistedTransitionError, match="nothing more"):
        DOOR.next(Door.BRICKED_UP, Push.PUSH)


def test_the_diagram_shows_every_arrow_and_both_ends():
    assert mermaid(DOOR) == (
        "stateDiagram-v2\n"
        "    [*] --> shut\n"
        "    shut --> open: push\n"
        "    open --> shut: pull\n"
        "    shut --> bricked_up: build\n"
        "    bricked_up --> [*]\n"
    )


def test_event_classes_are_named_by_their_class():
    class Knock:
        pass

    table: Table[Door, type] = Table(
        "door", initial=Door.SHUT, transitions={(Door.SHUT, Knock): Door.OPEN}
    )
    assert "shut --> open: Knock" in mermaid(table)
