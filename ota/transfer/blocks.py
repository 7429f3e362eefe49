r"""Block lists: the signed table of contents by which each block of a blob is proved when it arrives.

Format (big-endian)::

    18 bytes  b"outrider/blocks/1\n"
     4 bytes  block size in bytes
     8 bytes  length of the blob in bytes
    32 bytes  SHA-256 of the blob
    32 bytes  SHA-256 of each block, in order; the last block may be shorter

Rules:
- A block list is a blob itself: its digest stands in signed metadata, and it travels as one block.
- Reading is bounded: a list fits one message, and its length follows from its header.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import msgspec

from ota.errors import TransferError

MAGIC: Final = b"outrider/blocks/1\n"
MIN_BLOCK_BYTES: Final = 1_024
MAX_BLOCK_BYTES: Final = 262_144
MAX_LIST_BYTES: Final = 896_000
"""Leaves room for a `Block`'s other fields within the longest message."""

_HEADER = struct.Struct(f">{len(MAGIC)}sIQ32s")
_DIGEST_BYTES = 32
_KIB = 1_024
_MIB = 1_024 * _KIB


class BlockList(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed block list.

    Attributes:
        block_size: bytes of each block but the last.
        length: bytes of the blob.
        sha256: of the blob, lower-case hex.
        hashes: SHA-256 of each block, one after the other, 32 bytes each.
    """

    block_size: int
    length: int
    sha256: str
    hashes: bytes

    @property
    def count(self) -> int:
        """Number of blocks."""
        return len(self.hashes) // _DIGEST_BYTES

    def size_of(self, index: int) -> int:
        """Bytes of block `index`, which must be one of the list's."""
        return min(self.block_size, self.length - index * self.block_size)

    def holds(self, index: int, data: bytes) -> bool:
        """Whether `data` is block `index`; an index outside the list is never."""
        if not 0 <= index < self.count or len(data) != self.size_of(index):
            return False
        at = index * _DIGEST_BYTES
        return hashlib.sha256(data).digest() == self.hashes[at : at + _DIGEST_BYTES]


def choose_block_size(length: int) -> int:
    """Bytes per block for a blob of `length` bytes.

    Small blobs get small blocks, so that a lost one costs little; 64 KiB stays below the payload
    caps of common brokers; above a gigabyte the list itself must stay within one message.
    """
    if length <= _MIB:
        return 16 * _KIB
    return 64 * _KIB if length <= 1_024 * _MIB else 256 * _KIB


def block_list(data: bytes, block_size: int) -> bytes:
    """The block list of a blob.

    Raises:
        TransferError: the block size is out of range, or the list would not fit one message.
    """
    count = _check(block_size, len(data))
    view = memoryview(data)
    blocks = (view[i * block_size : (i + 1) * block_size] for i in range(count))
    hashes = b"".join(hashlib.sha256(block).digest() for block in blocks)
    digest = hashlib.sha256(data).digest()
    return _HEADER.pack(MAGIC, block_size, len(data), digest) + hashes


def parse_block_list(data: bytes) -> BlockList:
    """Read a block list.

    Raises:
        TransferError: it is none, or its length is not the one that its header asks for.
    """
    if len(data) < _HEADER.size:
        raise TransferError(
            f"expected a block list of at least {_HEADER.size} bytes, found {len(data)}; "
            f"the blob must be published again"
        )
    magic, block_size, length, digest = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise TransferError(
            f"expected a block list ({MAGIC!r}), found {magic!r}; update this program"
        )
    expected = _HEADER.size + _check(block_size, length) * _DIGEST_BYTES
    if len(data) != expected:
        raise TransferError(
            f"expected a block list of {expected} bytes for {length} bytes in blocks of {block_size}, "
            f"found {len(data)}; the blob must be published again"
        )
    return BlockList(
        block_size=block_size, length=length, sha256=digest.hex(), hashes=data[_HEADER.size :]
    )


def _check(block_size: int, length: int) -> int:
    """Number of blocks, when size and length are within bounds."""
    if not MIN_BLOCK_BYTES <= block_size <= MAX_BLOCK_BYTES:
        raise TransferError(
            f"expected a block size of {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES} bytes, "
            f"found {block_size}"
        )
    count = -(-length // block_size)
    if _HEADER.size + count * _DIGEST_BYTES > MAX_LIST_BYTES:
        raise TransferError(
            f"expected a block list of at most {MAX_LIST_BYTES} bytes, {length} bytes in blocks of "
            f"{block_size} need {count} digests; choose larger blocks"
        )
    return count
