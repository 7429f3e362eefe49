"""What the daemon and a worker say to each other: length-prefixed MessagePack, without I/O.

A frame is a 4-byte big-endian length and so many bytes of MessagePack.

Rules:
- Every order carries an id; the answer carries it back, so that a slow one holds up no other.
- A descriptor (`Promote`) travels beside the frame that names it, never without one.
- Frames are bounded; whatever else arrives is a `WireError`, and the other side is then given up.
"""

from __future__ import annotations

import struct
from typing import Any, Final, Generic, TypeVar

import msgspec

from agent.serving.port import Figures, SelfTest, WorkerSpec
from fleet.errors import WireError

MAX_FRAME_BYTES: Final = 4 << 20
_LENGTH: Final = struct.Struct(">I")

T = TypeVar("T")


class Order(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of what the daemon sends."""

    id: int


class Load(Order, frozen=True):
    """Load an artifact. Answer: `Done`."""

    spec: WorkerSpec


class RunSelfTest(Order, frozen=True):
    """Run the golden vectors. Answer: `Tested`."""


class Promote(Order, frozen=True):
    """Serve on the listening socket that comes with this frame. Answer: `Done`."""


class Drain(Order, frozen=True):
    """Stop to accept, finish what is in flight. Answer, when it is: `Done`."""

    idle_s: float
    limit_s: float


class TakeFigures(Order, frozen=True):
    """Hand the counts over. Answer: `Taken`."""


class Ping(Order, frozen=True):
    """Are you well? Answer: `Pong`."""


class Stop(Order, frozen=True):
    """End. Answer: the end of the connection."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of what a worker sends."""

    id: int


class Done(Answer, frozen=True):
    """It is done."""


class Tested(Answer, frozen=True):
    """Outcome of the self-test."""

    outcome: SelfTest


class Taken(Answer, frozen=True):
    """Counts."""

    figures: Figures


class Pong(Answer, frozen=True):
    """A sign of life; `busy_s` is for how long the running inference has been running."""

    busy_s: float


class Failed(Answer, frozen=True):
    """It could not be done; `code` is that of the error."""

    code: str
    text: str


Orders = Load | RunSelfTest | Promote | Drain | TakeFigures | Ping | Stop
Answers = Done | Tested | Taken | Pong | Failed

_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=str)  # paths


def encode(message: Order | Answer) -> bytes:
    """The frame of a message."""
    body = _ENCODER.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader(Generic[T]):
    """Bytes to messages of one kind."""

    def __init__(self, kind: Any) -> None:
        """A reader at the start of a stream of `kind` (a union of message types)."""
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind, dec_hook=_path)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[T]:
        """Take bytes; returns the messages that they complete.

        Raises:
            WireError: they are no such messages.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise WireError(
                    f"expected a frame of at most {MAX_FRAME_BYTES} bytes, found {length}"
                )
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._decode(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return messages

    def _decode(self, body: bytes) -> T:
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise WireError(f"expected a message between daemon and worker: {error}") from None


def orders() -> FrameReader[Orders]:
    """What a worker reads."""
    return FrameReader(Orders)


def answers() -> FrameReader[Answers]:
    """What the daemon reads."""
    return FrameReader(Answers)


def _path(kind: type, value: object) -> object:
    return kind(value)  # the only foreign type is Path, which travels as text
