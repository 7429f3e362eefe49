"""Making a file from a base and a delta, a frame at a time.

Rules:
- Memory is a few frames, whatever the delta and the files are; time grows with the result and the delta.
- What comes out is proved by its digest before the last piece is handed over: a caller that takes all pieces has
  the signed file, or an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np

from ota.delta import format as form
from ota.delta import streams
from ota.delta.format import Frame
from ota.delta.streams import Bytes
from ota.errors import DeltaError

Read = Callable[[int, int], bytes]
"""``read(offset, length)`` of the base; shorter at its end."""


class _Cursor:
    """Where the next bytes of the base come from."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.at = 0

    def take(self, length: int) -> bytes:
        data = self._read(self.at, length) if length else b""
        if len(data) != length:
            raise DeltaError(
                f"expected {length} bytes of the base from {self.at} on, found {len(data)}"
            )
        self.at += length
        return data

    def move(self, distance: int) -> None:
        self.at += distance
        if not 0 <= self.at < 1 << 62:
            raise DeltaError(f"expected a place within the base, found {self.at}")


def apply(
    delta: BinaryIO, base: Read | None, *, base_sha256: str, sha256: str, length_bytes: int
) -> Iterator[bytes]:
    """The result, in pieces of at most a mebibyte.

    Args:
        delta: the delta, from its first byte.
        base: reads the file that it starts from, whose digest the caller has checked; None: there is none.
        base_sha256: the base's digest; empty for a delta without one.
        sha256: of the result, by signed metadata.
        length_bytes: of the result, likewise.

    Raises:
        DeltaError: the delta is damaged, is one of other files, or makes other bytes.
    """
    header = form.read_header(delta)
    expected = (base_sha256, sha256, length_bytes)
    if (header.base_sha256, header.sha256, header.length_bytes) != expected:
        raise DeltaError(
            f"expected a delta from {base_sha256[:12] or 'nothing'} to {sha256[:12]} of {length_bytes} bytes, "
            f"found one from {header.base_sha256[:12] or 'nothing'} to {header.sha256[:12]} of {header.length_bytes}"
        )
    cursor = _Cursor(base or (lambda _offset, _length: b""))
    digest, made = hashlib.sha256(), 0
    while made < length_bytes:
        piece = _piece(form.read_frame(delta, remaining_bytes=length_bytes - made), cursor)
        digest.update(piece)
        made += len(piece)
        if made == length_bytes and digest.hexdigest() != sha256:
            raise DeltaError(f"expected a result with sha256 {sha256}, found {digest.hexdigest()}")
        yield piece
    if delta.read(1):
        raise DeltaError("expected the delta to end with its last frame, found more")


def _piece(frame: Frame, cursor: _Cursor) -> bytes:
    operations = list(
        form.read_operations(
            streams.decode(frame.operations).tobytes(), length_bytes=frame.length_bytes
        )
    )
    taken, added = [], 0
    for one in operations:
        taken.append(cursor.take(one.add))
        cursor.move(one.seek)
        added += one.add
    differences, insertions = streams.decode(frame.differences), streams.decode(frame.insertions)
    if (len(differences), len(insertions)) != (added, frame.length_bytes - added):
        raise DeltaError(
            f"expected {added} differences and {frame.length_bytes - added} insertions, found "
            f"{len(differences)} and {len(insertions)}"
        )
    like = frame.differences
    old = np.frombuffer(b"".join(taken), np.uint8)
    both = streams.restored(differences, old, width=like.width, phase=like.phase)
    return b"".join(_in_turn(operations, both, insertions))


def _in_turn(operations: list[form.Operation], added: Bytes, inserted: Bytes) -> Iterator[bytes]:
    a = i = 0
    for one in operations:
        yield added[a : a + one.add].tobytes()
        yield inserted[i : i + one.insert].tobytes()
        a, i = a + one.add, i + one.insert
