"""The answering side of a transfer: blocks for a request, read from wherever blobs are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from fleet.wire.messages import Block, BlocksWanted
from ota.errors import TransferError
from ota.transfer import bitmap
from ota.transfer.blocks import MAX_BLOCK_BYTES, MAX_LIST_BYTES, MIN_BLOCK_BYTES

MAX_BLOCKS_PER_REQUEST: Final = 512
"""However many a device asks for, no more are sent for one request."""

Read = Callable[[int, int], bytes]
"""``read(offset, length)`` of the blob; shorter at its end, empty behind it."""


def blocks_for(wanted: BlocksWanted, read: Read) -> Iterator[Block]:
    """The blocks that a device asks for, read one by one as they are taken.

    Args:
        wanted: the request.
        read: reads the blob that `wanted.digest` names.

    Raises:
        TransferError: the request cannot be meant.
    """
    check(wanted)
    if wanted.block_size_bytes == 0:
        yield _whole(wanted, read)
        return
    limit = min(wanted.limit, MAX_BLOCKS_PER_REQUEST)
    for index in islice(bitmap.unpack(wanted.first, wanted.bitmap), limit):
        data = read(index * wanted.block_size_bytes, wanted.block_size_bytes)
        if not data:
            return
        yield Block(digest=wanted.digest, index=index, data=data, unit=wanted.block_size_bytes)


def check(wanted: BlocksWanted) -> None:
    """Refuse a request that cannot be meant, before anything is read.

    Raises:
        TransferError: it cannot.
    """
    size = wanted.block_size_bytes
    if size and not MIN_BLOCK_BYTES <= size <= MAX_BLOCK_BYTES:
        raise TransferError(
            f"expected a block size of 0 or {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES} bytes, found {size}"
        )
    if wanted.listening and not size:
        raise TransferError("expected a broadcast in blocks, found a request for a whole list")
    if wanted.first < 0 or wanted.limit < 0:
        raise TransferError(
            f"expected first and limit not below 0, found {wanted.first} and {wanted.limit}"
        )


def _whole(wanted: BlocksWanted, read: Read) -> Block:
    data = read(0, MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise TransferError(
            f"expected a block list of at most {MAX_LIST_BYTES} bytes, the blob {wanted.digest} is "
            f"longer; ask for it in blocks"
        )
    return Block(digest=wanted.digest, index=0, data=data)
