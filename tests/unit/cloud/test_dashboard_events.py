"""Server-sent events: coalesced, last, alive, and ended with the server."""

from __future__ import annotations

import asyncio

from cloud.bus import Bus
from cloud.dashboard import events


def test_a_burst_becomes_one_event_after_all_of_it() -> None:
    async def story() -> list[str]:
        bus = Bus()
        frames = events.stream(bus, lambda: False, coalesce_s=0.02, heartbeat_s=0.2)
        found = [await anext(frames)]
        for number in range(50):
            bus.publish("device", {"device": f"d{number}"})
        found += [await anext(frames), await anext(frames)]
        await frames.aclose()
        return found

    assert asyncio.run(story()) == [events.HELLO, events.CHANGE, events.HEARTBEAT]


def test_what_happens_after_an_event_is_told_again() -> None:
    async def story() -> list[str]:
        bus = Bus()
        frames = events.stream(bus, lambda: False, coalesce_s=0.0, heartbeat_s=5.0)
        found = [await anext(frames)]
        for _ in range(3):
            bus.publish("rollout", {})
            found.append(await anext(frames))
        await frames.aclose()
        return found

    assert asyncio.run(story()) == [events.HELLO, *[events.CHANGE] * 3]


def test_the_stream_ends_with_the_server_and_forgets_the_bus() -> None:
    async def story() -> list[str]:
        bus = Bus()
        closing = [False]
        frames = events.stream(bus, lambda: closing[0], heartbeat_s=0.05)
        found = [await anext(frames)]
        closing[0] = True
        found += [frame async for frame in frames]
        assert bus._listeners == []
        return found

    assert asyncio.run(story()) == [events.HELLO]
