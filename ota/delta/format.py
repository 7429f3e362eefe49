r"""Deltas: how to make a file from one that is there, frame by frame.

A delta (big-endian)::

    17 bytes  b"outrider/delta/1\n"
    32 bytes  SHA-256 of the base; zeros: there is none, the delta is the compressed file
    40 bytes  length and SHA-256 of the result
    frames, until the result has its length; each:
         4 bytes  bytes of the result that the frame makes, 1 to 1 MiB
        3 x 11 bytes  its streams: codec, width and phase (1 byte each), plain length, coded length
        the coded streams: operations, differences, insertions

An operation is three numbers (LEB128): take so many bytes of the base and add the next differences to them; take
so many bytes of the insertions; move so far in the base (zigzag). This is bsdiff's scheme (Colin Percival, "Naive
differences of executable code", 2003), cut into frames so that memory is bounded, and with elements of a model's
weights subtracted as numbers.

Rules:
- Reading is bounded: nothing that a delta says makes a reader take more memory than a few frames.
- The position in the base goes on from frame to frame, and never leaves the base.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final, NamedTuple

import msgspec

from ota.delta.streams import MAX_PLAIN_BYTES, Stream
from ota.errors import DeltaError

MAGIC: Final = b"outrider/delta/1\n"
MAX_FRAME_BYTES: Final = MAX_PLAIN_BYTES
NO_BASE: Final = ""
_HEADER = struct.Struct(f">{len(MAGIC)}s32sQ32s")
_FRAME = struct.Struct(">I")
_STREAM = struct.Struct(">BBBII")
_MOST_CODED = MAX_PLAIN_BYTES + (MAX_PLAIN_BYTES >> 2)
_MAX_NUMBER_BYTES = 10


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a delta says of itself.

    Attributes:
        base_sha256: of the file that it starts from; empty: it needs none.
        length_bytes, sha256: of the file that it makes.
    """

    base_sha256: str
    length_bytes: int
    sha256: str


class Frame(NamedTuple):
    """One frame, its streams still coded."""

    length_bytes: int
    operations: Stream
    differences: Stream
    insertions: Stream


class Operation(NamedTuple):
    """Bytes that come from the base, bytes that are inserted, and how far to move in the base then."""

    add: int
    insert: int
    seek: int


def write_header(header: Header) -> bytes:
    """A delta's first bytes."""
    base = bytes.fromhex(header.base_sha256) if header.base_sha256 else bytes(32)
    return _HEADER.pack(MAGIC, base, header.length_bytes, bytes.fromhex(header.sha256))


def read_header(file: BinaryIO) -> Header:
    """A delta's header.

    Raises:
        DeltaError: it is no delta.
    """
    magic, base, length, sha256 = _HEADER.unpack(_exactly(file, _HEADER.size))
    if magic != MAGIC:
        raise DeltaError(f"expected a delta ({MAGIC!r}), found {magic!r}; update this program")
    return Header(
        base_sha256=base.hex() if any(base) else NO_BASE, length_bytes=length, sha256=sha256.hex()
    )


def write_frame(frame: Frame) -> bytes:
    """A frame's bytes."""
    streams = (frame.operations, frame.differences, frame.insertions)
    parts = [_FRAME.pack(frame.length_bytes)]
    parts += [_STREAM.pack(s.codec, s.width, s.phase, s.plain_bytes, len(s.coded)) for s in streams]
    return b"".join(parts + [s.coded for s in streams])


def read_frame(file: BinaryIO, *, remaining_bytes: int) -> Frame:
    """The next frame.

    Args:
        file: the delta, at the frame's first byte.
        remaining_bytes: what the result still lacks.

    Raises:
        DeltaError: the delta ends, or says of the frame what no frame is.
    """
    (length,) = _FRAME.unpack(_exactly(file, _FRAME.size))
    if not 0 < length <= min(MAX_FRAME_BYTES, remaining_bytes):
        raise DeltaError(
            f"expected a frame of 1 to {min(MAX_FRAME_BYTES, remaining_bytes)} bytes, found {length}"
        )
    heads = [_STREAM.unpack(_exactly(file, _STREAM.size)) for _ in range(3)]
    streams = []
    for codec, width, phase, plain, coded in heads:
        if coded > _MOST_CODED:
            raise DeltaError(
                f"expected a coded stream of at most {_MOST_CODED} bytes, found {coded}"
            )
        streams.append(
            Stream(
                codec=codec,
                width=width,
                phase=phase,
                plain_bytes=plain,
                coded=_exactly(file, coded),
            )
        )
    return Frame(length, *streams)


def write_operations(operations: Iterable[Operation]) -> bytes:
    """Operations as they stand in their stream."""
    out = bytearray()
    for one in operations:
        for number in (one.add, one.insert, _zigzag(one.seek)):
            rest = number
            while rest >= 0x80:
                out.append(rest & 0x7F | 0x80)
                rest >>= 7
            out.append(rest)
    return bytes(out)


def read_operations(data: bytes, *, length_bytes: int) -> Iterator[Operation]:
    """The operations of a frame that makes `length_bytes`.

    Raises:
        DeltaError: they end within one, or do not make that length.
    """
    at, made = 0, 0
    while at < len(data):
        add, at = _number(data, at)
        insert, at = _number(data, at)
        seek, at = _number(data, at)
        made += add + insert
        if made > length_bytes or (add + insert == 0 and at < len(data) and seek == 0):
            break
        yield Operation(add, insert, (seek >> 1) ^ -(seek & 1))
    if made != length_bytes or at != len(data):
        raise DeltaError(
            f"expected operations that make {length_bytes} bytes, found some that do not"
        )


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_MAX_NUMBER_BYTES):
        if at + shift >= len(data):
            break
        byte = data[at + shift]
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise DeltaError(
        "expected an operation's number of at most 10 bytes, found a longer or cut one"
    )


def _zigzag(number: int) -> int:
    return number << 1 if number >= 0 else (-number << 1) - 1


def _exactly(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) != length:
        raise DeltaError(
            f"expected {length} more bytes of the delta, found {len(data)}; it must be fetched again"
        )
    return data
