"""Blobs and signed targets for downloads without a cloud."""

from __future__ import annotations

import hashlib

from fleet.wire.messages import Block, BlocksWanted
from ota.transfer.blocks import block_list
from ota.transfer.serve import blocks_for
from ota.transfer.terms import Terms
from ota.verify.trust import Target


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def target_of(
    blob: bytes, listed: bytes | None = None, *, size: int, terms: Terms | None = None
) -> Target:
    """What signed metadata would say of a blob."""
    listed = block_list(blob, size) if listed is None else listed
    return Target(
        model="m",
        release="1",
        path="m/1/t.outrider",
        sha256=sha(blob),
        length_bytes=len(blob),
        blocks_sha256=sha(listed),
        blocks_length_bytes=len(listed),
        block_size_bytes=size,
        runtime="litert",
        hardware_classes=["cpu-arm64"],
        security_floor="",
        activate_before=0.0,
        terms=terms or Terms(),
    )


class Served:
    """Serves a blob and its block list by their digests."""

    def __init__(self, blob: bytes, size: int) -> None:
        listed = block_list(blob, size)
        self.sha256 = sha(blob)
        self.blobs = {self.sha256: blob, sha(listed): listed}

    def answer(self, wanted: BlocksWanted) -> list[Block]:
        blob = self.blobs[wanted.digest]
        return list(blocks_for(wanted, lambda offset, length: blob[offset : offset + length]))
