"""The asyncio shell of the protocol: accepts on a listening socket that others may hold too.

Rules:
- Several processes may accept on one listening socket at once; whoever loses the race for a connection
  just goes on. That is how a new version takes over without a refused connection.
- A connection that was accepted is answered, even when draining began in the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from agent.serving.oip.connection import Connection
from agent.serving.oip.http import Budget, Limits, Request, Response
from agent.serving.oip.service import Service

_log = logging.getLogger(__name__)
_ACCEPTS_AT_ONCE = 16
_SWEEP_S = 0.25
_ACCEPT_RETRY_S = 0.5


class Server:
    """Connections of one service."""

    def __init__(self, service: Service, limits: Limits) -> None:
        """A server that listens nowhere yet; must be made inside the event loop."""
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._connections: set[Connection] = set()
        self._arriving: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self.limits = limits
        self.budget = Budget(limits.buffered_bytes)
        self.draining = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def attach(self, listener: socket.socket) -> None:
        """Start to accept on a listening socket, which is closed by `drain` or `close`."""
        self._detach()
        self.draining = False
        listener.setblocking(False)
        self._listener = listener
        self._loop.add_reader(listener, self._accept)
        if self._sweeper is None:
            self._sweeper = self._loop.create_task(self._sweep())

    async def drain(self, *, idle_s: float, limit_s: float) -> None:
        """Stop to accept; return when the open connections have ended.

        Args:
            idle_s: idle connections are left open for so long.
            limit_s: whatever is open then is cut.
        """
        self._detach()
        self.draining = True
        ends = self._loop.time() + limit_s
        idle_ends = min(ends, self._loop.time() + idle_s)
        while (self._arriving or self._connections) and self._loop.time() < ends:
            if not self.draining:  # promoted again meanwhile
                return
            for connection in self._connections:
                connection.leave_soon(idle_ends)
            await asyncio.sleep(0.01)
        if self.draining:
            self._cut()

    async def close(self) -> None:
        """Stop at once."""
        self._detach()
        self._cut()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None

    async def answer(self, request: Request) -> Response:
        """See `agent.serving.oip.connection.Owner`."""
        return await self._service.handle(request)

    def opened(self, connection: Connection) -> bool:
        """See `agent.serving.oip.connection.Owner`."""
        self._connections.add(connection)
        return len(self._connections) <= self.limits.connections

    def closed(self, connection: Connection) -> None:
        """See `agent.serving.oip.connection.Owner`."""
        self._connections.discard(connection)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            if self._listener is None:
                return
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors or memory: give the system a moment
                _log.warning("cannot accept a connection: %s", error)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_ACCEPT_RETRY_S, self._accept_again, self._listener)
                return
            task = self._loop.create_task(self._take(accepted))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if self._listener is listener:
            self._loop.add_reader(listener, self._accept)

    async def _take(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            await self._loop.connect_accepted_socket(lambda: Connection(self), accepted)
        except OSError as error:
            _log.debug("a connection ended before it began: %s", error)
            accepted.close()

    def _detach(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _cut(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    async def _sweep(self) -> None:
        """End connections whose clients have taken too long."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self._loop.time()
            for connection in list(self._connections):
                if connection.deadline <= now:
                    connection.expire()
