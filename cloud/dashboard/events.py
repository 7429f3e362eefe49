"""Server-sent events for the pages: "something changed, look again".

Rules:
- An event carries no data: the page reads the registry again, so that it can show nothing stale or forged.
- Changes are coalesced: whatever comes within `COALESCE_S` of the first one becomes one event, sent last,
  so that the page reads after all of them.
- A comment is sent now and then, so that a dead connection is noticed on both ends.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from cloud.bus import Bus

COALESCE_S = 0.25
HEARTBEAT_S = 15.0
LOOK_S = 0.5

HELLO = "retry: 1500\n\n"
CHANGE = "event: change\ndata: \n\n"
HEARTBEAT = ": still here\n\n"


async def stream(
    bus: Bus,
    closing: Callable[[], bool],
    *,
    coalesce_s: float = COALESCE_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> AsyncIterator[str]:
    """Frames for one page, until its connection ends or the server is `closing`."""
    clock = asyncio.get_running_loop().time
    subscription = bus.subscribe()
    try:
        yield HELLO
        told_at = clock()
        while not closing():
            if await subscription.get(timeout_s=min(LOOK_S, heartbeat_s)) is not None:
                await asyncio.sleep(coalesce_s)
                while await subscription.get(timeout_s=0) is not None:
                    pass
                yield CHANGE
            elif clock() - told_at >= heartbeat_s:
                yield HEARTBEAT
            else:
                continue
            told_at = clock()
    finally:
        subscription.close()
