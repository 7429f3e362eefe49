"""Where units of work and jobs may go, and how the one follows from the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloud.work.states import (
    JOB,
    OPEN,
    UNIT,
    JobEvent,
    JobState,
    UnitEvent,
    UnitState,
    event_towards,
    state_of_job,
)

UNITS = st.lists(st.sampled_from(UnitState), min_size=1, max_size=5)


@given(st.lists(st.sampled_from(UnitEvent), max_size=30))
def test_a_unit_ends_once_until_somebody_wants_it_again(events: list[UnitEvent]) -> None:
    state, ended = UNIT.initial, False
    for event in events:
        if not UNIT.allows(state, event):
            continue
        state = UNIT.next(state, event)
        assert not ended or event is UnitEvent.RETRY
        ended = state not in OPEN
        assert ended == (
            event not in {UnitEvent.BEGIN, UnitEvent.HAND_BACK, UnitEvent.LOSE, UnitEvent.RETRY}
        )


@given(UNITS)
def test_a_job_is_open_exactly_while_one_of_its_units_is(units: list[UnitState]) -> None:
    found = state_of_job(units)
    assert (found in {JobState.QUEUED, JobState.RUNNING}) == bool(OPEN & set(units))
    assert (found is JobState.RUNNING) == (UnitState.RUNNING in units)
    assert (found is JobState.DONE) == (set(units) == {UnitState.DONE})
    assert found is state_of_job(units[::-1])


@given(UNITS, st.data())
def test_whatever_moves_a_unit_moves_its_job_along_its_own_table(
    units: list[UnitState], data: st.DataObject
) -> None:
    before = state_of_job(units)
    at = data.draw(st.integers(0, len(units) - 1))
    allowed = [e for e in UNIT.events_from(units[at]) if e is not UnitEvent.RETRY]
    if not allowed or before not in {JobState.QUEUED, JobState.RUNNING}:
        return
    moved = [*units]
    moved[at] = UNIT.next(units[at], data.draw(st.sampled_from(allowed)))
    after = state_of_job(moved)
    assert after is before or JOB.next(before, event_towards(after)) is after


def test_every_ended_job_may_be_tried_again() -> None:
    for state in set(JobState) - {JobState.QUEUED, JobState.RUNNING}:
        assert JOB.next(state, JobEvent.RETRY) is JobState.QUEUED
