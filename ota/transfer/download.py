"""Fetching one blob block by block over a link that loses, repeats, reorders and forges: sans-IO.

Rules:
- The block list comes first; its digest stands in signed metadata. After that each block is proved
  by it before a byte is written, so that a forged or damaged block costs one block and is asked
  for again.
- Where a block comes from (this device's topic, a broadcast, HTTPS) makes no difference.
- What is in flight is bounded by `Pace`; what does not come in time is asked for again. While the link is
  too thin for whole blocks they are asked for in pieces.
- `bitmap_bytes` may be stored only after the writes that it stands for are on the disk.
- `now` is monotonic time in seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

import msgspec

from fleet.wire.messages import Block, BlocksWanted, Refusal
from ota.errors import TransferError
from ota.transfer.bitmap import Bitmap, pack
from ota.transfer.blocks import BlockList, parse_block_list
from ota.transfer.flight import Flight
from ota.transfer.hearing import Hearing
from ota.transfer.pace import Allowance, Pace
from ota.transfer.pieces import PIECE_BYTES, Whole
from ota.verify.assignment import Target

MIN_SHARED = 3
"""So many devices must get a blob for a broadcast to be waited for."""


class Write(msgspec.Struct, frozen=True):
    """Bytes to write at an offset of the partial file."""

    offset: int
    data: bytes


class Download:
    """One blob on its way.

    Args:
        target: what signed metadata says of the blob, and on what terms it is fetched.
        block_list: the bytes of its block list where they were kept; None: it is fetched first.
        bitmap: what `bitmap_bytes` gave before a restart; empty: nothing is there.
        tag: makes request ids unique among restarts, for instance the boot epoch.

    Attributes:
        block_list: the bytes of the block list, to be kept beside the bitmap; None until it is there.
        rejected: blocks that were not what they claimed to be.
        pace: of its requests.
        hearing: its part in a broadcast.

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
        self.pace = Pace()
        self.hearing = Hearing()
        self._tag = tag
        self._asked_n = 0
        self._stored_bitmap = bitmap
        self._list: BlockList | None = None
        self._list_pieces = Whole(target.blocks_length_bytes)
        self._bitmap = Bitmap(0)
        self._partial: dict[int, Whole] = {}
        self._flight = Flight(self.pace)
        self._allowance = Allowance(target.terms.limit_bytes_s)
        self._not_before = 0.0
        self._may_hear = target.terms.shared >= MIN_SHARED and not target.terms.limit_bytes_s
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

    # --- asking -----------------------------------------------------------------------------------

    def wanted(self, now: float) -> BlocksWanted | None:
        """The next request to send, or None while enough is in flight; call until None."""
        self._flight.give_up(now)
        if self.complete:
            self.hearing.leave()
            return None
        if self._may_hear and self._list is not None:
            self._may_hear = False
            self.hearing.join(now)
        if self.hearing.due(now) and self._list is not None:
            self.hearing.said(now)
            everything = list(self._bitmap.missing())
            return self._message(
                self.target.sha256, self._list.block_size, everything, limit=0, listening=True
            )
        if self.hearing.on or now < self._not_before:
            return None
        return self._ask(now)

    def _ask(self, now: float) -> BlocksWanted | None:
        self._not_before = 0.0
        unit = self._unit()
        room = self.pace.window_bytes - self._flight.size_bytes
        if self._flight and room < max(unit, self.pace.window_bytes // 2):
            return None
        count = max(1, room // unit)
        allowed = self._allowance.units(unit, now)
        if allowed is not None and allowed < count:
            count = allowed
            if not count:
                self._not_before = self._allowance.due(unit)
                return None
        offsets = list(islice(self._wanted_offsets(unit), count))
        if not offsets:
            return None
        self._allowance.spend(len(offsets) * unit)
        digest = self.target.blocks_sha256 if self._list is None else self.target.sha256
        message = self._message(digest, unit, [at // unit for at in offsets], limit=len(offsets))
        self._flight.ask(message.id, unit=unit, offsets=set(offsets), now=now)
        return message

    def _unit(self) -> int:
        """Bytes by which to ask: whole blocks, unless the window is too small for two."""
        if self._list is None:
            return PIECE_BYTES
        block = self._list.block_size
        in_pieces = block > PIECE_BYTES and not block % PIECE_BYTES
        return PIECE_BYTES if in_pieces and self.pace.window_bytes < 2 * block else block

    def _wanted_offsets(self, unit: int) -> Iterator[int]:
        if self._list is None:
            offsets = self._list_pieces.missing()
            yield from (at for at in offsets if not self._flight.touches(at, unit))
            return
        block = self._list.block_size
        for index in self._bitmap.missing():
            start = index * block
            if unit == block:
                if not self._flight.touches(start, block):
                    yield start
                continue
            held = self._partial.get(index) or Whole(self._list.size_of(index))
            for piece in held.missing():
                if not self._flight.touches(start + piece, unit):
                    yield start + piece

    def _message(
        self, digest: str, unit: int, indices: list[int], *, limit: int, listening: bool = False
    ) -> BlocksWanted:
        self._asked_n += 1
        first, bits = pack(indices)
        return BlocksWanted(
            id=f"{self._tag}{digest[:12]}-{self._asked_n}",
            digest=digest,
            block_size_bytes=unit,
            first=first,
            bitmap=bits,
            limit=limit,
            listening=listening,
            mark=self.hearing.mark if listening else 0,
        )

    # --- what comes -------------------------------------------------------------------------------

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
        size = self._list.block_size
        if block.digest != self.target.sha256 or block.index < 0:
            return []
        if block.unit in {0, size}:
            write = self._prove(block.index, block.data)
            if write:
                self._flight.arrived(write[0].offset, len(block.data), now)
            return write
        return self._on_piece(block, now) if block.unit == PIECE_BYTES else []

    def on_broadcast(self, block: Block, now: float) -> list[Write]:
        """Take a block, or a mark, that was sent to everybody who listens.

        Raises:
            TransferError: as `on_block`.
        """
        if not self.hearing.on or self._list is None or block.digest != self.target.sha256:
            return []
        if block.index < 0:
            self.hearing.marked(-block.index, now)
            return []
        writes = self.on_block(block, now)
        if writes or block.index in self._bitmap:
            self.hearing.block(now)
        return writes

    def _on_piece(self, block: Block, now: float) -> list[Write]:
        if self._list is None:
            return []
        offset = block.index * PIECE_BYTES
        index, within = divmod(offset, self._list.block_size)
        if not self._flight.expects(offset, PIECE_BYTES) or index in self._bitmap:
            return []
        whole = self._partial.setdefault(index, Whole(self._list.size_of(index)))
        if not whole.add(within, block.data):
            self.rejected += 1
            return []
        self._flight.arrived(offset, len(block.data), now)
        data = whole.joined()
        if data is None:
            return []
        del self._partial[index]
        return self._prove(index, data)

    def _prove(self, index: int, data: bytes) -> list[Write]:
        if self._list is None or index >= self._list.count or index in self._bitmap:
            return []
        if not self._list.holds(index, data):
            self.rejected += 1
            return []
        self._bitmap.add(index)
        self._partial.pop(index, None)
        return [Write(index * self._list.block_size, data)]

    def on_refusal(self, refusal: Refusal, now: float) -> None:
        """Take a refusal of one of this download's requests.

        Raises:
            TransferError: asking again is of no use.
        """
        if self.hearing.on and refusal.id.startswith(f"{self._tag}{self.target.sha256[:12]}-"):
            self.hearing.leave()
            return
        if not self._flight.forget(refusal.id):
            return
        if not refusal.retryable:
            raise TransferError(
                f"blob {self.target.sha256}: expected blocks, found a refusal: "
                f"{refusal.code}: {refusal.text}"
            )
        self.pace.in_vain()
        self._not_before = now + self.pace.wait_s

    def forget(self, request: str) -> bool:
        """A request will not be answered; whether it was under way."""
        return self._flight.forget(request)

    def on_reconnect(self) -> None:
        """The link was cut, or another is used: nothing that was asked for will come any more."""
        self._flight.clear()
        self.hearing.leave()
        self._not_before = 0.0

    def deadline(self) -> float | None:
        """When `wanted` should be called again if nothing arrives before; None when complete."""
        if self.complete:
            return None
        times = [
            due for due in (self.hearing.deadline(), self._flight.deadline()) if due is not None
        ]
        if not times or self._not_before:
            times.append(self._not_before)
        return min(times)

    # --- the block list ---------------------------------------------------------------------------

    def _on_list(self, block: Block, now: float) -> None:
        if block.digest != self.target.blocks_sha256:
            return
        if block.unit == 0 and block.index == 0:  # all of it at once
            self._try_list(block.data)
            return
        offset = block.index * PIECE_BYTES
        expected = block.unit == PIECE_BYTES and self._flight.expects(offset, PIECE_BYTES)
        if not expected or not self._list_pieces.add(offset, block.data):
            return
        self._flight.arrived(offset, len(block.data), now)
        data = self._list_pieces.joined()
        if data is not None:
            self._list_pieces.clear()
            self._try_list(data)

    def _try_list(self, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != self.target.blocks_sha256:
            self.rejected += 1
            return
        self._flight.clear()
        self._take_list(data)

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
