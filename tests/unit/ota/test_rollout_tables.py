from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import UnlistedTransitionError
from ota.rollout.tables import (
    DEVICE,
    ENDED,
    ROLLOUT,
    WAVE,
    DeviceEvent,
    DeviceStatus,
    RolloutEvent,
    RolloutStatus,
    WaveEvent,
    WaveStatus,
)

TABLES = [
    (ROLLOUT, RolloutStatus, RolloutEvent),
    (WAVE, WaveStatus, WaveEvent),
    (DEVICE, DeviceStatus, DeviceEvent),
]


@pytest.mark.parametrize(("table", "statuses", "events"), TABLES)
def test_every_state_can_be_reached_and_every_event_is_used(table, statuses, events):
    reached, found = set(), {table.initial}
    while found:
        reached |= found
        found = {b for a, b in table.pairs() if a in reached} - reached
    assert reached == set(statuses)
    assert set(table.events) == set(events)


@given(st.sampled_from(TABLES), st.data())
def test_any_walk_stays_within_the_table(which, data):
    table, _, events = which
    state = table.initial
    for event in data.draw(st.lists(st.sampled_from(events), max_size=20)):
        if table.allows(state, event):
            state = table.next(state, event)
        else:
            with pytest.raises(UnlistedTransitionError):
                table.next(state, event)


def test_an_ended_rollout_can_only_be_rolled_back():
    for status in ENDED:
        assert set(ROLLOUT.events_from(status)) <= {RolloutEvent.ROLLBACK}
    assert ROLLOUT.terminal == {RolloutStatus.ROLLED_BACK}


def test_a_devices_end_is_only_ever_left_by_restoring():
    for status in (DeviceStatus.COMMITTED, DeviceStatus.FAILED):
        assert DEVICE.events_from(status) == (DeviceEvent.RESTORE,)
    assert DEVICE.terminal == {DeviceStatus.INCOMPATIBLE, DeviceStatus.RESTORED}


def test_a_wave_that_passed_stays_passed():
    assert WAVE.terminal == {WaveStatus.PASSED}
