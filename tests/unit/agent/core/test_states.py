"""The table of the update machine, and what must hold for every path through it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.states import HEAVY, LIGHT, SETTLED, TABLE, TERMINAL, State, Trigger
from fleet.errors import UnlistedTransitionError
from fleet.statemachine import mermaid

pytestmark = pytest.mark.agent

NEWLY = {Trigger.ASSIGNED, Trigger.CONFIRMED, Trigger.WITHDRAWN, Trigger.OUTDATED}


def test_every_state_is_of_one_kind():
    assert set(State) == SETTLED | LIGHT | HEAVY
    assert not SETTLED & LIGHT
    assert not SETTLED & HEAVY
    assert not LIGHT & HEAVY


def test_a_settled_state_is_left_for_a_newer_assignment_or_an_engine_that_is_outdated():
    for state in SETTLED:
        assert set(TABLE.events_from(state)) <= NEWLY


def test_whatever_is_under_way_can_be_given_up():
    for state in (LIGHT | HEAVY) - {State.ROLLING_BACK}:
        assert TABLE.next(state, Trigger.DISPROVED) is State.ROLLING_BACK
    assert TABLE.events_from(State.ROLLING_BACK) == (Trigger.RESTORED,)


def test_a_restart_leads_back_to_what_is_on_the_disk():
    for state in HEAVY - {State.ROLLING_BACK}:
        assert TABLE.next(state, Trigger.REBOOTED) is State.STAGED


@given(st.lists(st.sampled_from(Trigger), max_size=60))
def test_any_sequence_of_triggers(triggers: list[Trigger]):
    """Only what was tested is activated, and only what was activated is committed."""
    state, tested, activated = TABLE.initial, False, False
    for trigger in triggers:
        try:
            after = TABLE.next(state, trigger)
        except UnlistedTransitionError:
            assert not TABLE.allows(state, trigger)
            continue
        if after in LIGHT:
            tested = activated = False
        tested |= trigger is Trigger.PASSED
        activated |= trigger is Trigger.ACTIVATED
        if after in {State.ACTIVATING, State.PROBATION}:
            assert tested
        if trigger is Trigger.PROVED:
            assert activated
            assert after is State.COMMITTED
        if after in TERMINAL and trigger is not Trigger.CONFIRMED:
            assert state not in SETTLED
        state = after


def test_the_diagram_names_every_state():
    drawn = mermaid(TABLE)
    assert all(state.value in drawn for state in State)
