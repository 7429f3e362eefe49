"""Fetching one blob block by block over a link that loses, repeats, reorders and forges: sans-IO.

Rules:
- The block list comes first; its digest stands in signed metadata. After that each block is proved
  by it before a byte is written, so that a forged or damaged block costs one block and is asked
  for again.
- What is in flight is bounded by `Pace`; what does not come in time is asked for again.
- `bitmap_bytes` may be stored only after the writes that it stands for are on the disk.
- `now` is monotonic time in seconds.
"""

from __future__ import annotations

import hashlib
from itertools import islice

import msgspec

from fleet.wire.messages import Block, BlocksWanted, Refusal
from ota.errors import TransferError
from ota.transfer.bitmap import Bitmap, pack
from ota.transfer.blocks import BlockList, parse_block_list
from ota.transfer.pace import Pace
from ota.verify.assignment import Target


class Write(msgspec.Struct, frozen=True):
    """Bytes to write at an offset of the partial file."""

    offset: int
    data: bytes


class _Asked(msgspec.Struct):
    """A request that is not answered in full yet.

    Attributes:
        began_at: when its answer had the link for itself; 0 before its first block.
        first_s: from the request to its first block.
    """

    id: str
    at: float
    indices: set[int]
    began_at: float = 0.0
    first_s: float = 0.0
    size_bytes: int = 0


class Download:
    """One blob on its way.

    Args:
        target: what signed metadata says of the blob.
        block_list: the bytes of its block list where they were kept; None: it is fetched first.
        bitmap: what `bitmap_bytes` gave before a restart; empty: nothing is there.
        tag: makes request ids unique among restarts, for instance the boot epoch.

    Attributes:
        block_list: the bytes of the block list, to be kept beside the bitmap; None until it is there.
        rejected: blocks that were not what they claimed to be.

    Raises:
        TransferError: the block list or the bitmap is not this target's.
    """

    def __init__(
        self,
        target: Target,
        block_list: bytes | None = None,
        bitmap: bytes = b"",
        *,
        tag: str = "",
    ) -> None:
        self.target = target
        self.block_list: bytes | None = None
        self.rejected = 0
        self._tag = tag
        self._asked_n = 0
        self._stored_bitmap = bitmap
        self._list: BlockList | None = None
        self._bitmap = Bitmap(0)
        self._pace = Pace()
        self._asked: list[_Asked] = []
        self._heard_at = 0.0
        self._not_before = 0.0
        if block_list is not None:
            self._take_list(block_list)

    @property
    def complete(self) -> bool:
        """Whether every block is there."""
        return self._list is not None and self._bitmap.full

    @property
    def bytes_done(self) -> int:
        """Bytes that are there already."""
        if self._list is None:
            return 0
        return min(len(self._bitmap) * self._list.block_size, self.target.length_bytes)

    @property
    def progress(self) -> float:
        """Share of the blocks that are there, 0 to 1."""
        if self._list is None:
            return 0.0
        return len(self._bitmap) / self._list.count if self._list.count else 1.0

    def bitmap_bytes(self) -> bytes:
        """The bitmap to keep, for a download that goes on after a restart."""
        return self._bitmap.to_bytes() if self._list is not None else self._stored_bitmap

    def wanted(self, now: float) -> BlocksWanted | None:
        """The next request to send, or None while enough is in flight; call until None."""
        self._give_up(now)
        if self.complete or now < self._not_before:
            return None
        if self._list is None:
            return None if self._asked else self._ask_for_list(now)
        in_flight: set[int] = set().union(*(asked.indices for asked in self._asked))
        room = self._pace.window - len(in_flight)
        if room < max(1, self._pace.window // 2):
            return None
        fresh = (index for index in self._bitmap.missing() if index not in in_flight)
        indices = list(islice(fresh, room))
        return self._ask_for(indices, now) if indices else None

    def on_block(self, block: Block, now: float) -> list[Write]:
        """Take a block that arrived.

        Returns:
            What to write; empty for a block that is not wanted, is there already, or is not what it
            claims to be.

        Raises:
            TransferError: the block list is the signed one, and does not describe the target: the
                release must be repaired.
        """
        if self._list is None:
            self._on_list(block, now)
            return []
        if block.digest != self.target.sha256 or not 0 <= block.index < self._list.count:
            return []
        if block.index in self._bitmap:
            return []
        if not self._list.holds(block.index, block.data):
            self.rejected += 1
            return []
        self._bitmap.add(block.index)
        self._arrived(block.index, len(block.data), now)
        return [Write(block.index * self._list.block_size, block.data)]

    def on_refusal(self, refusal: Refusal, now: float) -> None:
        """Take a refusal of one of this download's requests.

        Raises:
            TransferError: asking again is of no use.
        """
        if not any(asked.id == refusal.id for asked in self._asked):
            return
        if not refusal.retryable:
            raise TransferError(
                f"blob {self.target.sha256}: expected blocks, found a refusal: "
                f"{refusal.code}: {refusal.text}"
            )
        self._asked = [asked for asked in self._asked if asked.id != refusal.id]
        self._pace.in_vain()
        self._not_before = now + self._pace.wait_s

    def on_reconnect(self) -> None:
        """The link was cut: nothing that was asked for will come any more."""
        self._asked.clear()
        self._not_before = 0.0

    def deadline(self) -> float | None:
        """When `wanted` should be called again if nothing arrives before; None when complete."""
        if self.complete:
            return None
        if not self._asked:
            return self._not_before
        return max(self._heard_at, min(asked.at for asked in self._asked)) + self._pace.wait_s

    # --- the block list ---------------------------------------------------------------------------

    def _ask_for_list(self, now: float) -> BlocksWanted:
        return self._request(self.target.blocks_sha256, 0, {0}, now)

    def _on_list(self, block: Block, now: float) -> None:
        if block.digest != self.target.blocks_sha256:
            return
        if hashlib.sha256(block.data).hexdigest() != self.target.blocks_sha256:
            self.rejected += 1
            return
        self._heard_at = now
        self._asked.clear()
        self._take_list(block.data)

    def _take_list(self, data: bytes) -> None:
        found = hashlib.sha256(data).hexdigest()
        if found != self.target.blocks_sha256:
            raise TransferError(
                f"block list of {self.target.path}: expected sha256 {self.target.blocks_sha256}, "
                f"found {found}; it must be fetched again"
            )
        parsed = parse_block_list(data)
        described = (parsed.sha256, parsed.length, parsed.block_size)
        target = self.target
        if described != (target.sha256, target.length_bytes, target.block_size_bytes):
            raise TransferError(
                f"block list of {target.path}: expected it to describe {target.length_bytes} bytes "
                f"with sha256 {target.sha256} in blocks of {target.block_size_bytes}, found "
                f"{parsed.length}, {parsed.sha256}, {parsed.block_size}; the release must be repaired"
            )
        self._bitmap = Bitmap(parsed.count, self._stored_bitmap)
        self._list = parsed
        self.block_list = data

    # --- requests ---------------------------------------------------------------------------------

    def _ask_for(self, indices: list[int], now: float) -> BlocksWanted:
        return self._request(self.target.sha256, self.target.block_size_bytes, set(indices), now)

    def _request(self, digest: str, size: int, indices: set[int], now: float) -> BlocksWanted:
        self._asked_n += 1
        asked = _Asked(id=f"{self._tag}{digest[:12]}-{self._asked_n}", at=now, indices=set(indices))
        self._asked.append(asked)
        first, bits = pack(indices)
        return BlocksWanted(
            id=asked.id,
            digest=digest,
            block_size_bytes=size,
            first=first,
            bitmap=bits,
            limit=len(indices),
        )

    def _arrived(self, index: int, size_bytes: int, now: float) -> None:
        before, self._heard_at = self._heard_at, now
        for at, asked in enumerate(self._asked):
            if index not in asked.indices:
                continue
            if not asked.size_bytes:
                asked.began_at = max(asked.at, before)
                asked.first_s = now - asked.at
            asked.indices.discard(index)
            asked.size_bytes += size_bytes
            if not asked.indices:
                self._pace.measured(
                    size_bytes=asked.size_bytes,
                    elapsed_s=now - asked.began_at,
                    first_s=asked.first_s,
                    block=self.target.block_size_bytes,
                )
            # Answers come in the order of the requests: what an answer two requests later has
            # overtaken is lost, and waiting for it would only hold the window.
            overtaken = max(0, at - 1)
            self._asked = [a for a in self._asked[overtaken:] if a.indices]
            return

    def _give_up(self, now: float) -> None:
        deadline = self.deadline()
        if self._asked and deadline is not None and now >= deadline:
            self._asked.clear()
            self._pace.in_vain()
