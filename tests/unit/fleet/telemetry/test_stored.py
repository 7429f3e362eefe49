from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import windows

from fleet.errors import WireError
from fleet.telemetry import stored

pytestmark = pytest.mark.agent


@given(windows())
def test_a_row_gives_its_window_back(window):
    row = stored.encode(window)
    assert stored.decode(row) == window
    assert stored.encode(stored.decode(row)) == row


@given(windows(), st.data())
def test_a_flipped_bit_is_found(window, data):
    row = bytearray(stored.encode(window))
    position = data.draw(st.integers(0, len(row) * 8 - 1))
    row[position // 8] ^= 1 << position % 8
    with pytest.raises(WireError):
        stored.decode(bytes(row))


@given(windows(), st.data())
def test_a_torn_row_is_found(window, data):
    row = stored.encode(window)
    with pytest.raises(WireError):
        stored.decode(row[: data.draw(st.integers(0, len(row) - 1))])


@given(st.binary(max_size=64))
def test_rubbish_is_refused(data):
    with pytest.raises(WireError):
        stored.decode(data)
