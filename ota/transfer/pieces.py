"""Bytes that can be proved only together: a block list, or a block that a thin link brings in pieces.

Rule: a piece is held only where it was asked for, so that what is held is bounded by the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

PIECE_BYTES: Final = 16 << 10


class Whole:
    """Collects the pieces of so many bytes.

    Args:
        length: of the whole, in bytes.
    """

    __slots__ = ("_pieces", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self._pieces: dict[int, bytes] = {}

    def __contains__(self, offset: int) -> bool:
        return offset in self._pieces

    def missing(self) -> Iterator[int]:
        """Offsets of the pieces that are not there, in order; one for a whole of no bytes."""
        for offset in range(0, max(1, self.length), PIECE_BYTES):
            if offset not in self._pieces:
                yield offset

    def add(self, offset: int, data: bytes) -> bool:
        """Hold a piece; whether it is one."""
        fits = (
            offset % PIECE_BYTES == 0
            and 0 <= offset < max(1, self.length)
            and len(data) == min(PIECE_BYTES, self.length - offset)
        )
        if fits:
            self._pieces[offset] = data
        return fits

    def joined(self) -> bytes | None:
        """All of it, once every piece is there."""
        if next(self.missing(), None) is not None:
            return None
        return b"".join(self._pieces[offset] for offset in sorted(self._pieces))

    def clear(self) -> None:
        """It does not hold: begin anew."""
        self._pieces.clear()
