"""A control connection on asyncio: frames both ways over a Unix socket, descriptors beside them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from typing import Generic, TypeVar

from agent.serving import protocol
from agent.serving.protocol import Answer, FrameReader, Order
from fleet.errors import WireError

T = TypeVar("T")
_READ_BYTES = 64 << 10
_DESCRIPTORS = 4


class Channel(Generic[T]):
    """One end of a control connection, inside an event loop."""

    def __init__(self, sock: socket.socket, reader: FrameReader[T]) -> None:
        """Take over a connected Unix stream socket."""
        sock.setblocking(False)
        self._sock = sock
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._received: asyncio.Queue[T | WireError | None] = asyncio.Queue()
        self._descriptors: deque[int] = deque()
        self._loop.add_reader(sock, self._on_readable)

    async def send(self, message: Order | Answer, *, descriptor: int | None = None) -> None:
        """Send a message, and a duplicate of a descriptor with it.

        Raises:
            OSError: the other side has gone.
        """
        data = memoryview(protocol.encode(message))
        async with self._sending:
            if descriptor is not None:
                data = data[await self._send_with(descriptor, data) :]
            await self._loop.sock_sendall(self._sock, data)

    async def receive(self) -> T | None:
        """The next message; None when the other side has gone.

        Raises:
            WireError: it sent junk.
        """
        item = await self._received.get()
        if isinstance(item, WireError):
            raise item
        return item

    def take_descriptor(self) -> int:
        """The oldest descriptor that came and was not taken; its owner is the caller then.

        Raises:
            WireError: none came.
        """
        if not self._descriptors:
            raise WireError("expected a descriptor beside the message, found none")
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close the connection and the descriptors that nobody took."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    async def _send_with(self, descriptor: int, data: memoryview) -> int:
        while True:
            with contextlib.suppress(BlockingIOError):
                return socket.send_fds(self._sock, [data], [descriptor])
            writable = asyncio.Event()
            self._loop.add_writer(self._sock, writable.set)
            try:
                await writable.wait()
            finally:
                self._loop.remove_writer(self._sock)

    def _on_readable(self) -> None:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(
                self._sock, _READ_BYTES, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # reset: the other process died with data unread
            data, descriptors = b"", []
        self._descriptors.extend(descriptors)
        if not data:
            self._end(None)
            return
        try:
            for message in self._reader.feed(data):
                self._received.put_nowait(message)
        except WireError as error:
            self._end(error)

    def _end(self, last: WireError | None) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._loop.remove_reader(self._sock)
        self._received.put_nowait(last)
