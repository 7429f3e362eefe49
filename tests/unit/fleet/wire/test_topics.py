from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import ids

from fleet.errors import WireError
from fleet.wire import topics

pytestmark = pytest.mark.agent

LEGAL = re.compile(r"[A-Za-z0-9_-]{1,64}")
illegal = st.text(max_size=70).filter(lambda text: not LEGAL.fullmatch(text))


@given(ids, ids, st.sampled_from(topics.Up))
def test_an_upward_topic_is_parsed_back(tenant, device, kind):
    assert topics.parse_up(topics.up(tenant, device, kind)) == (tenant, device, kind)


@given(ids, ids, st.sampled_from(topics.Down))
def test_a_downward_topic_is_parsed_back_and_fits_the_filter(tenant, device, kind):
    topic = topics.down(tenant, device, kind)
    assert topics.parse_down(topic) is kind
    root = topics.down_filter(tenant, device).removesuffix("+")
    assert topic.startswith(root)
    assert "/" not in topic.removeprefix(root)


@given(illegal, ids)
def test_illegal_ids_are_refused_before_they_are_sent(bad, good):
    calls = (
        lambda: topics.up(bad, good, topics.Up.BIRTH),
        lambda: topics.up(good, bad, topics.Up.BIRTH),
        lambda: topics.down(bad, good, topics.Down.ACK),
        lambda: topics.down_filter(good, bad),
        lambda: topics.broadcast(bad, "ab"),
    )
    for call in calls:
        with pytest.raises(WireError, match="not a legal id"):
            call()


@pytest.mark.parametrize(
    "bad", ["", "a b", "a/b", "a.b", "+", "#", "é", "a\n", "a" * 65, "٣", "$SYS"]
)
def test_what_brokers_treat_in_their_own_ways_is_refused(bad):
    with pytest.raises(WireError):
        topics.check_id(bad, what="device")


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_refused(topic):
    try:
        tenant, device, kind = topics.parse_up(topic)
    except WireError:
        return
    assert topics.up(tenant, device, kind) == topic


@pytest.mark.parametrize(
    "topic",
    [
        "outrider/v1/t/d/x/down/ack",
        "outrider/v1/t/d/x/up/birth/more",
        "outrider/v2/t/d/x/up/birth",
        "outrider/v1/t/d/x/up/unknown",
        "outrider/v1/t/d//up/birth",
        "/outrider/v1/t/d/x/up/birth",
    ],
)
def test_other_topics_are_refused_as_upward(topic):
    with pytest.raises(WireError):
        topics.parse_up(topic)
