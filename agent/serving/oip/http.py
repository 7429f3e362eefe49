"""HTTP/1.1 requests out of bytes, and answers into bytes. No I/O.

Rules:
- `RequestReader.feed` returns requests in the order of arrival; pipelined ones come out together.
- It never raises, whatever arrives: an `HttpError` comes last in what it returns, and after it the reader
  is of no more use; its connection must be closed once everything before is answered.
- Headers and bodies are bounded before they are kept; the bodies of all connections together are
  bounded by `Budget`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

from agent.serving.oip.errors import HttpError, overloaded

Part = bytes | bytearray | memoryview
_BAD = "expected an HTTP/1.1 request, found something else"


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server.

    Attributes:
        target_bytes, header_bytes, body_bytes: of one request.
        buffered_bytes: of the bodies of all requests that are not answered yet.
        header_s: from the first byte of a request to the end of its headers.
        body_s: from there to the end of its body.
        idle_s: between two requests on one connection.
        write_s: for the client to take an answer that waits in the send buffer.
        connections: open at once.
        pipelined: requests of one connection that may wait for their turn.
        queued: inferences that may wait for their turn.
    """

    target_bytes: int = 4096
    header_bytes: int = 16 << 10
    body_bytes: int = 64 << 20
    buffered_bytes: int = 256 << 20
    header_s: float = 10.0
    body_s: float = 60.0
    idle_s: float = 75.0
    write_s: float = 30.0
    connections: int = 256
    pipelined: int = 16
    queued: int = 64


class Budget:
    """Bytes of bodies that may be held at once, over all connections."""

    def __init__(self, limit: int) -> None:
        """A budget of which nothing is taken."""
        self._left = limit

    def take(self, size: int) -> None:
        """Take `size` bytes.

        Raises:
            HttpError: 503, there are not so many left.
        """
        if size > self._left:
            raise overloaded("too many bytes of requests wait already; send this one again later")
        self._left -= size

    def give(self, size: int) -> None:
        """Give `size` bytes back."""
        self._left += size


@dataclass
class Request:
    """A complete request.

    Attributes:
        headers: lower-case names; of repeated ones the last.
        held_bytes: taken from the budget; whoever answers the request gives them back.
    """

    method: str
    target: bytes
    headers: dict[bytes, bytes]
    body: bytearray
    keep_alive: bool
    held_bytes: int = 0


@dataclass(frozen=True)
class Response:
    """An answer; `parts` are sent one after another."""

    status: int
    parts: Sequence[Part] = ()
    content_type: bytes = b"application/json"
    headers: tuple[bytes, ...] = ()


def response_head(response: Response, *, keep_alive: bool) -> bytes:
    """Status line and headers of an answer."""
    length = sum(len(part) for part in response.parts)
    lines = [
        b"HTTP/1.1 %d %s" % (response.status, HTTPStatus(response.status).phrase.encode()),
        b"content-type: " + response.content_type,
        b"content-length: %d" % length,
        *response.headers,
    ]
    if not keep_alive:
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class _Message:
    """A request in the making."""

    target: bytearray = field(default_factory=bytearray)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    header_bytes: int = 0
    held_bytes: int = 0


class RequestReader:
    """Turns the bytes of one connection into requests.

    Attributes:
        expects_continue: the client waits for ``100 Continue`` before it sends the body; whoever
            sends it sets this to False.
        in_headers, in_body: where in a request the last byte was.
    """

    def __init__(self, limits: Limits, budget: Budget) -> None:
        """A reader at the start of a connection."""
        self._limits = limits
        self._budget = budget
        self._parser = httptools.HttpRequestParser(self)
        self._message = _Message()
        self._ready: list[Request | HttpError] = []
        self._error: HttpError | None = None
        self.expects_continue = False
        self.in_headers = False
        self.in_body = False

    def feed(self, data: bytes) -> list[Request | HttpError]:
        """Take bytes from the client; returns the requests that they complete."""
        try:
            self._parser.feed_data(data)
            if self.in_headers:
                self._message.header_bytes += len(data)
                self._check_headers()
        except httptools.HttpParserUpgrade:
            self._close_after_last()
        except (httptools.HttpParserError, HttpError):
            self._ready.append(self._error or HttpError(400, _BAD, close=True))
        ready, self._ready = self._ready, []
        return ready

    def abandon(self) -> None:
        """Give back what an unfinished request holds; the connection is gone."""
        self._budget.give(self._message.held_bytes)
        self._message = _Message()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._message = _Message()
        self.in_headers = True

    def on_url(self, url: bytes) -> None:
        """Called by the parser, perhaps several times for one target."""
        self._message.target += url
        if len(self._message.target) > self._limits.target_bytes:
            self._fail(414, f"expected a target of at most {self._limits.target_bytes} bytes")

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Called by the parser for each complete header."""
        value = value or b""
        self._message.header_bytes += len(name) + len(value) + 4
        self._check_headers()
        self._message.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        message = self._message
        self.in_headers, self.in_body = False, True
        length = message.headers.get(b"content-length")
        if length is not None and int(length) > self._limits.body_bytes:
            self._fail(413, f"expected a body of at most {self._limits.body_bytes} bytes")
        expect = message.headers.get(b"expect")
        if expect is not None and expect.lower() != b"100-continue":
            self._fail(417, f"expected no expectation but 100-continue, found {expect[:64]!r}")
        self.expects_continue = expect is not None

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece of a body."""
        message = self._message
        if message.held_bytes + len(body) > self._limits.body_bytes:
            self._fail(413, f"expected a body of at most {self._limits.body_bytes} bytes")
        try:
            self._budget.take(len(body))
        except HttpError as error:
            self._fail(error.status, str(error))
        message.held_bytes += len(body)
        message.body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        message, self._message = self._message, _Message()
        self.in_headers = self.in_body = self.expects_continue = False
        self._ready.append(
            Request(
                method=self._parser.get_method().decode("ascii", "replace"),
                target=bytes(message.target),
                headers=message.headers,
                body=message.body,
                keep_alive=self._parser.should_keep_alive(),
                held_bytes=message.held_bytes,
            )
        )

    def _close_after_last(self) -> None:
        """The request asks for another protocol: it is answered in this one, then the end."""
        last = self._ready[-1] if self._ready else None
        if isinstance(last, Request):
            last.keep_alive = False
        else:
            self._ready.append(HttpError(400, _BAD, close=True))

    def _check_headers(self) -> None:
        if self._message.header_bytes > self._limits.header_bytes:
            self._fail(431, f"expected headers of at most {self._limits.header_bytes} bytes")

    def _fail(self, status: int, message: str) -> None:
        self._error = HttpError(status, message, close=True)
        raise self._error
