r"""Content-defined chunks: what of a file is there already, wherever it lies in another one.

A list of chunks (big-endian)::

    18 bytes  b"outrider/chunks/1\n"
     4 bytes  average length of a chunk in bytes, a power of two
     8 bytes  length of the file
    20 bytes  per chunk: length (4), first 16 bytes of its SHA-256

A chunk ends where a hash of the last 32 bytes says so, so that bytes that moved are cut as before (gear hash: Xia et
al., "Ddelta", 2014; the sum over a window is built by doubling, so that numpy does the work).

Rules:
- A list is a blob with a signed digest; what its chunks fill is still proved by the file's own digest.
- Reading is bounded: a list fits `MAX_LIST_BYTES`, and cutting takes memory for one window of the file.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ota.delta.apply import Read
from ota.errors import DeltaError
from ota.transfer.bitmap import Bitmap

MAGIC: Final = b"outrider/chunks/1\n"
MAX_LIST_BYTES: Final = 4 << 20
MIN_AVERAGE_BYTES: Final = 16_384
MAX_AVERAGE_BYTES: Final = 1 << 20
_MANY: Final = 100_000
_WINDOW: Final = 32
_PIECE_BYTES: Final = 1 << 20
_DIGEST_BYTES: Final = 16
_HEADER = struct.Struct(f">{len(MAGIC)}sIQ")
_ENTRY = struct.Struct(f">I{_DIGEST_BYTES}s")


def _gear() -> NDArray[np.uint32]:
    """256 numbers without a pattern, the same on every machine."""
    digests = b"".join(hashlib.sha256(b"outrider gear %d" % n).digest()[:4] for n in range(256))
    return np.frombuffer(digests, ">u4").astype(np.uint32)


_GEAR: Final = _gear()


class Chunk(NamedTuple):
    """A chunk: where it lies, and the first bytes of its SHA-256."""

    at: int
    length: int
    digest: bytes


class ChunkList(msgspec.Struct, frozen=True, kw_only=True):
    """A file's chunks, in order."""

    average_bytes: int
    length_bytes: int
    chunks: tuple[Chunk, ...]


class Piece(NamedTuple):
    """Bytes of a wanted file that are held: in which file, and where."""

    at: int
    length: int
    held: int
    held_at: int
    digest: bytes


def average_for(length_bytes: int) -> int:
    """How long chunks should be on average, so that a file's list stays small."""
    average = MIN_AVERAGE_BYTES
    while average < MAX_AVERAGE_BYTES and length_bytes // average > _MANY:
        average *= 2
    return average


def cut(read: Read, length_bytes: int, *, average_bytes: int) -> Iterator[Chunk]:
    """A file's chunks, from a quarter of the average to four times as long; the last may be shorter.

    Args:
        read: reads the file.
        length_bytes: its length.
        average_bytes: a power of two.

    Raises:
        DeltaError: the file is shorter than `length_bytes`.
    """
    start = 0
    for end in _ends(read, length_bytes, average_bytes):
        data = _read(read, start, end - start)
        yield Chunk(start, end - start, hashlib.sha256(data).digest()[:_DIGEST_BYTES])
        start = end


def write_list(chunks: Iterable[Chunk], *, length_bytes: int, average_bytes: int) -> bytes:
    """A list's bytes."""
    entries = (_ENTRY.pack(chunk.length, chunk.digest) for chunk in chunks)
    return _HEADER.pack(MAGIC, average_bytes, length_bytes) + b"".join(entries)


def parse_list(data: bytes) -> ChunkList:
    """Read a list.

    Raises:
        DeltaError: it is none, or its chunks do not make its file.
    """
    if not _HEADER.size <= len(data) <= MAX_LIST_BYTES:
        raise DeltaError(
            f"expected a list of chunks of {_HEADER.size} to {MAX_LIST_BYTES} bytes, found {len(data)}"
        )
    magic, average, length = _HEADER.unpack_from(data)
    known = MIN_AVERAGE_BYTES <= average <= MAX_AVERAGE_BYTES and not average & average - 1
    if magic != MAGIC or not known or (len(data) - _HEADER.size) % _ENTRY.size:
        raise DeltaError(f"expected a list of chunks ({MAGIC!r}), found {magic!r} or a cut one")
    chunks, at = [], 0
    for size, digest in _ENTRY.iter_unpack(data[_HEADER.size :]):
        if not 0 < size <= 4 * average:
            raise DeltaError(f"expected a chunk of 1 to {4 * average} bytes, found {size}")
        chunks.append(Chunk(at, size, digest))
        at += size
    if at != length:
        raise DeltaError(f"expected chunks of {length} bytes in all, found {at}")
    return ChunkList(average_bytes=average, length_bytes=length, chunks=tuple(chunks))


def held(wanted: ChunkList, files: Sequence[tuple[Read, int]]) -> Iterator[Piece]:
    """The wanted chunks that lie in one of `files` (how to read it, and its length), in order.

    Raises:
        DeltaError: a file is shorter than it was said to be.
    """
    places: dict[bytes, tuple[int, int, int]] = {}
    missing = {chunk.digest for chunk in wanted.chunks}
    for number, (read, length) in enumerate(files):
        for chunk in cut(read, length, average_bytes=wanted.average_bytes):
            if chunk.digest in missing:
                places.setdefault(chunk.digest, (number, chunk.at, chunk.length))
    for chunk in wanted.chunks:
        number, at, length = places.get(chunk.digest, (0, 0, -1))
        if length == chunk.length:
            yield Piece(chunk.at, length, number, at, chunk.digest)


def fill(piece: Piece, files: Sequence[tuple[Read, int]]) -> bytes:
    """A piece's bytes, hashed again when they are taken.

    Raises:
        DeltaError: they are others now.
    """
    data = _read(files[piece.held][0], piece.held_at, piece.length)
    if hashlib.sha256(data).digest()[:_DIGEST_BYTES] != piece.digest:
        raise DeltaError(f"expected a chunk that was there a moment ago at {piece.held_at}")
    return data


def covered(pieces: Iterable[Piece], *, length_bytes: int, block_size_bytes: int) -> Bitmap:
    """The blocks of a file that pieces, in order, cover from end to end."""
    bitmap = Bitmap(-(-length_bytes // block_size_bytes))
    begun = end = 0
    for piece in pieces:
        if piece.at != end:
            _add_blocks(bitmap, begun, end, length_bytes, block_size_bytes)
            begun = piece.at
        end = piece.at + piece.length
    _add_blocks(bitmap, begun, end, length_bytes, block_size_bytes)
    return bitmap


def _add_blocks(bitmap: Bitmap, begun: int, end: int, length: int, size: int) -> None:
    last = bitmap.count if end == length else end // size
    for index in range(-(-begun // size), last):
        bitmap.add(index)


def _ends(read: Read, length: int, average: int) -> Iterator[int]:
    """Where chunks end."""
    least, most, start = average // 4, average * 4, 0
    for end in _candidates(read, length, average):
        while end - start > most:
            start += most
            yield start
        if end - start >= least:
            start = end
            yield end
    while length - start > most:
        start += most
        yield start
    if start < length:
        yield length


def _candidates(read: Read, length: int, average: int) -> Iterator[int]:
    """Places behind which a chunk may end."""
    shift = np.uint32(32 - (average.bit_length() - 1))
    for begin in range(0, length, _PIECE_BYTES):
        before = min(begin, _WINDOW - 1)
        size = min(_PIECE_BYTES, length - begin) + before
        hashes = _GEAR[np.frombuffer(_read(read, begin - before, size), np.uint8)]
        step = 1
        while step < _WINDOW:
            doubled = hashes.copy()
            doubled[step:] += hashes[:-step] << np.uint32(step)
            hashes, step = doubled, step * 2
        ends = np.flatnonzero(hashes[before:] >> shift == 0) + begin + 1
        yield from (int(end) for end in ends if end >= _WINDOW)


def _read(read: Read, at: int, length: int) -> bytes:
    data = read(at, length)
    if len(data) != length:
        raise DeltaError(f"expected {length} bytes from {at} on, found {len(data)}")
    return data
