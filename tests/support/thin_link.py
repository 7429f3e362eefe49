"""A link of so many bytes per second towards the device: a TCP relay with a token bucket, on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque

_CHUNK_BYTES = 2048


class ThinLink:
    """Forwards ``127.0.0.1:port`` to a local port; what goes up is not held back.

    It takes what the broker sends at once, as the buffers of a real link do: what waits in it is what a
    message has to wait behind.

    Attributes:
        backlog_most: bytes that waited at most since it was last set to 0.
    """

    def __init__(self, upstream_port: int, *, rate_bytes_s: float) -> None:
        self._upstream_port, self._rate = upstream_port, rate_bytes_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.backlog_most = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cut everything."""
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._upstream_port))
                self._sockets += [near, far]
                threading.Thread(target=self._up, args=(near, far), daemon=True).start()
                _Down(self, far, near, self._rate).start()

    def _up(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Down:
    """One connection towards the device."""

    def __init__(
        self, link: ThinLink, source: socket.socket, sink: socket.socket, rate: float
    ) -> None:
        self._link, self._source, self._sink, self._rate = link, source, sink, rate
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._ended = False

    def start(self) -> None:
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._source.recv(_CHUNK_BYTES):
                with self._changed:
                    self._waiting.append(data)
                    self._bytes += len(data)
                    self._link.backlog_most = max(self._link.backlog_most, self._bytes)
                    self._changed.notify()
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _write(self) -> None:
        free_at = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if not self._waiting:
                    break
                data = self._waiting.popleft()
            free_at = max(free_at, time.monotonic()) + len(data) / self._rate
            time.sleep(max(0.0, free_at - time.monotonic()))
            try:
                self._sink.sendall(data)
            except OSError:
                break
            with self._changed:
                self._bytes -= len(data)
        with contextlib.suppress(OSError):
            self._sink.shutdown(socket.SHUT_RDWR)
