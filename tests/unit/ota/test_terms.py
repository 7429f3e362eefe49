"""Terms: quiet hours by the clock, and what may be signed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.errors import TransferError
from ota.transfer.route import LINK_PATIENCE_S, RETURN_S, Route, Way
from ota.transfer.terms import DAY_S, check_spans, quiet_until

pytestmark = pytest.mark.agent

MINUTE = st.integers(0, 24 * 60 - 1)


def text(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@given(MINUTE, MINUTE, st.floats(0, DAY_S - 1))
def test_it_is_quiet_from_the_beginning_to_the_end_also_over_midnight(
    begin: int, end: int, at: float
):
    rest = quiet_until([f"{text(begin)}-{text(end)}"], at)
    first, last = begin * 60, end * 60
    inside = first <= at < last if first < last else at >= first or at < last
    assert (rest > 0) is inside
    if inside and begin != end:
        assert abs((at + rest) % DAY_S - last % DAY_S) < 1e-6


def test_spans_that_touch_are_one():
    assert quiet_until(["22:00-00:00", "00:00-06:00"], 23 * 3600.0) == 7 * 3600.0
    assert quiet_until([], 5.0) == 0.0


@pytest.mark.parametrize(
    "spans",
    [["25:00-01:00"], ["noon"], ["08:00-08:00"], ["00:00-12:00", "12:00-00:00"], ["1-2"] * 9],
)
def test_what_is_no_span_or_leaves_no_time_is_refused(spans: list[str]):
    with pytest.raises(TransferError):
        check_spans(spans)


def test_a_route_without_https_waits_for_mqtt():
    route = Route(prefers_https=True, possible=False)
    route.choose(0.0, connected=False, vain_n=9)
    assert route.way is None
    route.choose(1.0, connected=True, vain_n=9)
    assert route.way is Way.MQTT


def test_a_route_falls_back_and_returns():
    route = Route(prefers_https=False, possible=True)
    assert not route.choose(0.0, connected=True, vain_n=0)
    assert route.choose(1.0, connected=True, vain_n=2)
    assert route.way is Way.HTTPS
    assert not route.choose(2.0, connected=True, vain_n=0)
    assert route.choose(2.0 + RETURN_S, connected=True, vain_n=0)
    assert route.way is Way.MQTT
    route.choose(1000.0, connected=False, vain_n=0)
    assert route.way is None
    route.choose(1000.0 + LINK_PATIENCE_S, connected=False, vain_n=0)
    assert route.way is Way.HTTPS
    route.failed(1011.0, "refused")
    assert route.choose(1011.0, connected=True, vain_n=0)
    assert route.way is Way.MQTT
