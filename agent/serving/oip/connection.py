"""One client's connection: reads requests, answers them in order, keeps the client to its time limits.

Rules:
- One request is answered at a time; pipelined ones wait, and beyond a limit reading stops.
- After a refusal that ends the connection its answer is sent, then what still arrives is thrown away for
  a moment, so that the client reads the answer rather than a reset.
- While draining, the next answer says ``connection: close``; an idle connection is left a moment, so
  that a client that is just about to send is still answered.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import Protocol, cast

from agent.serving.oip.errors import HttpError
from agent.serving.oip.http import (
    CONTINUE,
    Budget,
    Limits,
    Request,
    RequestReader,
    Response,
    response_head,
)
from agent.serving.oip.service import refusal

LINGER_S = 2.0


class Owner(Protocol):
    """What a connection asks of its server."""

    limits: Limits
    budget: Budget
    draining: bool

    async def answer(self, request: Request) -> Response:
        """Answer one request; never raises."""

    def opened(self, connection: Connection) -> bool:
        """Take note of a new connection; False when there are too many."""

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""


class Connection(asyncio.Protocol):
    """The asyncio side of one connection.

    Attributes:
        deadline: loop time at which the client has taken too long.
        idle: nothing of a request has arrived that is not answered.
    """

    def __init__(self, owner: Owner) -> None:
        """A connection that is about to be made."""
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader(owner.limits, owner.budget)
        self._waiting: deque[Request | HttpError] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._at_end = False
        self._lingering = False
        self.deadline = math.inf

    @property
    def idle(self) -> bool:
        """See the class."""
        return self._pump is None and not (self._reader.in_headers or self._reader.in_body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        if not self._owner.opened(self):
            self._waiting.append(HttpError(503, "too many connections", close=True))
            self._start()
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._lingering:
            return
        began = self._reader.in_headers, self._reader.in_body
        found = self._reader.feed(data)
        self._waiting.extend(found)
        if found:
            self._start()
        if len(self._waiting) > self._owner.limits.pipelined and self._transport is not None:
            self._transport.pause_reading()
        if self._pump is None:
            self._go_on()
            if began != (self._reader.in_headers, self._reader.in_body):
                self._set_deadline()

    def eof_received(self) -> bool:
        """Called by asyncio: the client sends no more, and may still wait for answers."""
        self._at_end = True
        return self._pump is not None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Called by asyncio."""
        self._transport = None
        self._writable.set()
        self._reader.abandon()
        if self._pump is not None:
            self._pump.cancel()
        self._owner.closed(self)

    def pause_writing(self) -> None:
        """Called by asyncio: the client does not take what is sent."""
        self._writable.clear()
        self.deadline = self._loop.time() + self._owner.limits.write_s

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._writable.set()
        self.deadline = math.inf

    def expire(self) -> None:
        """The deadline has passed: say so where an answer is due, and end the connection."""
        if self._transport is None:
            return
        if not self._writable.is_set() or self._lingering or self.idle:
            self._transport.abort()
        elif self._pump is None:
            self._waiting.append(HttpError(408, "the request took too long to arrive", close=True))
            self._start()

    def leave_soon(self, at: float) -> None:
        """Draining: end at loop time `at` when nothing arrives until then."""
        if self.idle:
            self.deadline = min(self.deadline, at)

    def abort(self) -> None:
        """End at once."""
        if self._transport is not None:
            self._transport.abort()

    def _start(self) -> None:
        if self._pump is None:
            self.deadline = math.inf
            self._pump = self._loop.create_task(self._answer_all())

    async def _answer_all(self) -> None:
        """Answer what waits, in order."""
        try:
            while self._waiting and self._transport is not None:
                item = self._waiting.popleft()
                if isinstance(item, HttpError):
                    self._write(refusal(item), keep_alive=False)
                    self._linger()
                    return
                if not await self._answer_one(item):
                    self._linger()
                    return
        finally:
            self._pump = None
            for item in self._waiting if self._transport is None or self._lingering else ():
                if isinstance(item, Request):
                    self._owner.budget.give(item.held_bytes)
        if self._transport is not None:
            self._transport.resume_reading()
            self._go_on()
            self._set_deadline()

    async def _answer_one(self, request: Request) -> bool:
        """Whether the connection goes on."""
        try:
            response = await self._owner.answer(request)
        finally:
            self._owner.budget.give(request.held_bytes)
        last = not self._waiting
        keep_alive = request.keep_alive and not (last and (self._owner.draining or self._at_end))
        self._write(response, keep_alive=keep_alive)
        await self._writable.wait()
        return keep_alive

    def _write(self, response: Response, *, keep_alive: bool) -> None:
        if self._transport is None:
            return
        small = [response_head(response, keep_alive=keep_alive), *response.parts[:1]]
        self._transport.write(b"".join(small))
        for part in response.parts[1:]:
            self._transport.write(part)

    def _linger(self) -> None:
        """Send what is to be sent, then close once the client has, or soon."""
        if self._transport is None:
            return
        self._lingering = True
        self.deadline = self._loop.time() + LINGER_S
        self._transport.resume_reading()
        if self._at_end or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()

    def _go_on(self) -> None:
        """Tell a client that waits to be told to send its body."""
        if self._reader.expects_continue and self._transport is not None:
            self._reader.expects_continue = False
            self._transport.write(CONTINUE)

    def _set_deadline(self) -> None:
        limits = self._owner.limits
        if self._pump is not None:
            return
        if self._reader.in_headers:
            self.deadline = self._loop.time() + limits.header_s
        elif self._reader.in_body:
            self.deadline = self._loop.time() + limits.body_s
        else:
            self.deadline = self._loop.time() + limits.idle_s
