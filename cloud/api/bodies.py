"""Large request bodies: into a file as they come, up to a limit."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request

from cloud.errors import InputError


async def receive(request: Request, into: Path, *, limit_bytes: int, what: str) -> None:
    """Write a request's body to the file `into`.

    Raises:
        InputError: it is longer than `limit_bytes`; `what` names it in the message.
    """
    received = 0
    with into.open("wb") as file:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit_bytes:
                raise InputError(
                    f"expected {what} of at most {limit_bytes} bytes, found a longer one"
                )
            file.write(chunk)
