"""What changes, as it changes: the bus as server-sent events (https://html.spec.whatwg.org/#server-sent-events)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from cloud.api.access import Cloud, Viewer
from cloud.context import Context

KEEP_ALIVE_S = 15.0
_LOOK_S = 0.5

router = APIRouter(tags=["events"])


@router.get("/events")
async def events(
    request: Request, cloud: Cloud, _by: Viewer, topic: Annotated[list[str] | None, Query()] = None
) -> StreamingResponse:
    """Notes of what changed (``event:`` topic, ``data:`` ids); all topics when none is named."""
    stream = _notes(request, cloud, topic or [])
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _notes(request: Request, cloud: Context, topics: list[str]) -> AsyncIterator[bytes]:
    """Until the client leaves or the server closes; a comment line keeps the connection alive."""
    loop = asyncio.get_running_loop()
    subscription = cloud.bus.subscribe(*topics)
    try:
        yield b": listening\n\n"
        quiet_since = loop.time()
        while not request.app.state.closing:
            note = await subscription.get(timeout_s=_LOOK_S)
            if note is not None:
                data = msgspec.json.encode(note.data)
                yield b"event: %s\ndata: %s\n\n" % (note.topic.encode(), data)
            elif await request.is_disconnected():
                return
            elif loop.time() - quiet_since > KEEP_ALIVE_S:
                yield b": still here\n\n"
            else:
                continue
            quiet_since = loop.time()
    finally:
        subscription.close()
