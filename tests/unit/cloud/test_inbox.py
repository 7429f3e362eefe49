"""The inbox and the rate limit: bounded, and fair."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from cloud.gateway.inbox import Inbox, Incoming
from cloud.gateway.ratelimit import MAX_KEYS, RateLimit
from fleet.wire.topics import Up, UpTopic


def message(device: str, kind: Up = Up.EVENT, size: int = 1) -> Incoming:
    return Incoming(UpTopic("default", device, kind), b"x" * size)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.tuples(st.sampled_from("abc"), st.sampled_from(list(Up)), st.integers(0, 40)),
        ),
        max_size=60,
    )
)
def test_it_keeps_its_bounds_and_the_order(steps: list[tuple[str, Up, int] | None]):
    inbox = Inbox(max_messages=8, max_bytes=100, max_per_device=4)
    model: list[Incoming] = []
    for step in steps:
        if step is None:
            found = inbox.get(0)
            assert found == (model.pop(0) if model else None)
            continue
        device, kind, size = step
        incoming = message(device, kind, size)
        if inbox.put(incoming):
            model.append(incoming)
        assert len(inbox) == len(model) <= 8
        assert sum(len(m.payload) for m in model) <= 100
        assert sum(m.topic.device == device for m in model) <= 4


def test_a_noisy_device_leaves_room_for_the_others():
    inbox = Inbox(max_messages=100, max_per_device=10)
    assert sum(inbox.put(message("noisy")) for _ in range(50)) == 10
    assert inbox.put(message("quiet"))


def test_telemetry_leaves_room_for_what_matters_more():
    inbox = Inbox(max_messages=8, max_per_device=100)
    assert sum(inbox.put(message(f"d{n}", Up.TELEMETRY)) for n in range(8)) == 6
    assert inbox.put(message("d", Up.BIRTH))
    assert inbox.put(message("d", Up.REPORTED))
    assert not inbox.put(message("d", Up.BIRTH))


def test_closing_lets_a_waiting_reader_go():
    inbox = Inbox()
    found: list[object] = []
    reader = threading.Thread(target=lambda: found.append(inbox.get(60)))
    reader.start()
    inbox.close()
    reader.join(10)
    assert found == [None]
    assert not inbox.put(message("a"))


@given(st.lists(st.floats(0, 3), min_size=1, max_size=100))
def test_never_more_than_the_burst_and_the_rate(pauses: list[float]):
    limit = RateLimit(burst=5, per_s=2)
    now = passed = 0.0
    for pause in pauses:
        now += pause
        passed += limit.allow("a", now)
    assert passed <= 5 + 2 * now + 1e-6
    assert limit.allow("b", now)


def test_who_waits_may_ask_again_and_strangers_do_not_fill_the_memory():
    limit = RateLimit(burst=1, per_s=1)
    assert limit.allow("a", 0)
    assert not limit.allow("a", 0.5)
    assert limit.allow("a", 1.0)
    for n in range(MAX_KEYS + 10):
        limit.allow(str(n), 2.0)
    assert len(limit._level) == MAX_KEYS
