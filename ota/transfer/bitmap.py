"""Bitmaps of blocks: one bit per block, least significant bit first, as they travel and are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ota.errors import TransferError


class Bitmap:
    """Which blocks are there.

    Args:
        count: number of blocks.
        data: what `to_bytes` gave; empty: none is there.

    Raises:
        TransferError: `data` is not the bitmap of `count` blocks.
    """

    __slots__ = ("_bits", "_set", "count")

    def __init__(self, count: int, data: bytes = b"") -> None:
        self.count = count
        self._bits = bytearray(data or bytes(-(-count // 8)))
        if len(self._bits) != -(-count // 8):
            raise TransferError(
                f"expected a bitmap of {-(-count // 8)} bytes for {count} blocks, found {len(data)}; "
                f"the download must start again"
            )
        if count % 8 and self._bits[-1] >> count % 8:
            raise TransferError(
                f"expected no bit above block {count - 1}, found one; the download must start again"
            )
        self._set = sum(byte.bit_count() for byte in self._bits)

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def __len__(self) -> int:
        return self._set

    def add(self, index: int) -> None:
        """Set a block's bit."""
        if index not in self:
            self._bits[index >> 3] |= 1 << (index & 7)
            self._set += 1

    @property
    def full(self) -> bool:
        """Whether every block is there."""
        return self._set == self.count

    def missing(self) -> Iterator[int]:
        """The blocks that are not there, in order."""
        for at, byte in enumerate(self._bits):
            if byte != 0xFF:
                for bit in range(8):
                    index = at * 8 + bit
                    if index < self.count and not byte >> bit & 1:
                        yield index

    def to_bytes(self) -> bytes:
        """The bitmap as it is stored."""
        return bytes(self._bits)


def pack(indices: Iterable[int]) -> tuple[int, bytes]:
    """The first index and a bitmap that starts there, for `BlocksWanted`; (0, b"") for no index."""
    wanted = sorted(indices)
    if not wanted:
        return 0, b""
    first = wanted[0]
    bits = bytearray((wanted[-1] - first) // 8 + 1)
    for index in wanted:
        bits[(index - first) >> 3] |= 1 << ((index - first) & 7)
    return first, bytes(bits)


def unpack(first: int, data: bytes) -> Iterator[int]:
    """The indices that `pack` packed, in order."""
    for at, byte in enumerate(data):
        if byte:
            for bit in range(8):
                if byte >> bit & 1:
                    yield first + at * 8 + bit
