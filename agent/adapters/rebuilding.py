"""Filling an artifact's partial file from what the device holds and a way of sending less that it fetched.

Rules:
- Memory is bounded, whatever the files are; nothing appears under a final name here.
- The bitmap is saved last: a power cut leaves the way's blob, and all of this is done again.
- What is filled is not believed: the artifact is hashed as a whole before it comes into a slot.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import BinaryIO

from agent.adapters import disk
from agent.adapters.store import Kept, Store
from agent.core.commands import Rebuild
from agent.core.events import Rebuilt
from ota.delta import chunks
from ota.delta.apply import Read, apply
from ota.errors import DeltaError
from ota.transfer.bitmap import Bitmap


def rebuild(store: Store, command: Rebuild) -> Rebuilt:
    """Fill the partial file.

    Raises:
        DeltaError: the way does not lead to the artifact.
        DiskError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        way = stack.enter_context(disk.reading(store.download_path(command.way.sha256)))
        held = [
            (sha256, stack.enter_context(disk.reading(store.slot_path(command.model, slot))))
            for slot, sha256 in sorted(command.slots.items())
        ]
        if command.way.kind == "delta":
            bitmap, filled = _by_delta(store, command, way, dict(held))
        else:
            bitmap, filled = _by_chunks(store, command, way, [file for _, file in held])
    store.save_bitmap(command.sha256, Kept(bitmap=bitmap.to_bytes()))
    store.forget(command.way.sha256)
    return Rebuilt(model=command.model, sha256=command.sha256, filled_bytes=filled)


def _by_delta(
    store: Store, command: Rebuild, way: BinaryIO, held: dict[str, BinaryIO]
) -> tuple[Bitmap, int]:
    base = command.way.base
    if base and base not in held:
        raise DeltaError(f"expected {base[:12]} in a slot, found {sorted(held) or 'nothing'}")
    pieces = apply(
        way,
        _reader(held[base]) if base else None,
        base_sha256=base,
        sha256=command.sha256,
        length_bytes=command.length_bytes,
    )
    at = 0
    for piece in pieces:
        store.write_block(command.sha256, at, piece)
        at += len(piece)
    bitmap = Bitmap(-(-command.length_bytes // command.block_size_bytes))
    for index in range(bitmap.count):
        bitmap.add(index)
    return bitmap, at


def _by_chunks(
    store: Store, command: Rebuild, way: BinaryIO, held: list[BinaryIO]
) -> tuple[Bitmap, int]:
    wanted = chunks.parse_list(way.read(chunks.MAX_LIST_BYTES + 1))
    if wanted.length_bytes != command.length_bytes:
        raise DeltaError(
            f"expected the chunks of {command.length_bytes} bytes, found those of {wanted.length_bytes}"
        )
    files = [(_reader(file), os.fstat(file.fileno()).st_size) for file in held]
    pieces = list(chunks.held(wanted, files))
    for piece in pieces:
        store.write_block(command.sha256, piece.at, chunks.fill(piece, files))
    bitmap = chunks.covered(
        pieces, length_bytes=command.length_bytes, block_size_bytes=command.block_size_bytes
    )
    size, length = command.block_size_bytes, command.length_bytes
    missing = sum(min(size, length - index * size) for index in bitmap.missing())
    return bitmap, length - missing


def _reader(file: BinaryIO) -> Read:
    descriptor = file.fileno()
    return lambda offset, length: os.pread(descriptor, length, offset)
