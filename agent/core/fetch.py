"""Driving one blob's download: requests up, blocks to the disk, the bitmap now and then.

Rule: the bitmap is saved after every `SAVE_BYTES` or `SAVE_S`, whichever is first, and at the end; the
disk makes the blocks durable before it saves which they are.
"""

from __future__ import annotations

from agent.core.commands import SaveBitmap, WriteBlock
from agent.core.context import Context
from fleet.wire import codec
from fleet.wire.messages import Block, Refusal
from ota.transfer.download import Download
from ota.verify.trust import Target

SAVE_BYTES = 4 << 20
SAVE_S = 5.0
_REPORT_STEP = 0.25


class Fetch:
    """A download under way.

    Args:
        ctx: the core's surroundings.
        model: whose artifact it is.
        target: what signed metadata says of it.
        block_list, bitmap: what an earlier attempt left on the disk.

    Raises:
        TransferError: what was left is not this target's.
    """

    def __init__(
        self, ctx: Context, model: str, target: Target, *, block_list: bytes, bitmap: bytes
    ) -> None:
        self._ctx, self._model = ctx, model
        self._download = Download(
            target, block_list or None, bitmap, tag=f"{ctx.boot_epoch[:8]}-{model}-"
        )
        self._unsaved_bytes = 0
        self._unsaved_since = 0.0
        self._reported = self._download.progress
        self.began = ctx.now

    @property
    def target(self) -> Target:
        """What is fetched."""
        return self._download.target

    @property
    def complete(self) -> bool:
        """Whether every block is written and the bitmap saved."""
        return self._download.complete and not self._unsaved_bytes

    @property
    def progress(self) -> float:
        """Share of the blob that is there, 0 to 1."""
        return self._download.progress

    def figures(self) -> dict[str, float]:
        """For the report."""
        return {
            "bytes_done": float(self._download.bytes_done),
            "blocks_rejected": float(self._download.rejected),
        }

    def pump(self) -> None:
        """Send what requests may be sent; save what is due."""
        if self._unsaved_bytes and self._ctx.now >= self._unsaved_since + SAVE_S:
            self._save()
        while self._ctx.connected:
            wanted = self._download.wanted(self._ctx.now)
            if wanted is None:
                return
            self._ctx.publish("req", codec.to_json(wanted), counter=0)

    def on_block(self, block: Block) -> None:
        """A block arrived, this one's or another's.

        Raises:
            TransferError: the release must be repaired.
        """
        for write in self._download.on_block(block, self._ctx.now):
            self._unsaved_since = self._unsaved_since or self._ctx.now
            self._unsaved_bytes += len(write.data)
            self._ctx.do(
                WriteBlock(
                    model=self._model,
                    sha256=self.target.sha256,
                    offset=write.offset,
                    data=write.data,
                )
            )
        if self._unsaved_bytes >= SAVE_BYTES or (self._unsaved_bytes and self._download.complete):
            self._save()

    def on_refusal(self, refusal: Refusal) -> None:
        """A request was refused, this one's or another's.

        Raises:
            TransferError: asking again is of no use.
        """
        self._download.on_refusal(refusal, self._ctx.now)

    def on_reconnect(self) -> None:
        """The link was cut: nothing that was asked for will come any more."""
        self._download.on_reconnect()

    def reportable(self) -> bool:
        """Whether progress has grown by a step since the last time that this was true."""
        if self.progress < self._reported + _REPORT_STEP or self._download.complete:
            return False
        self._reported = self.progress
        return True

    def deadline(self) -> float | None:
        """When `pump` has something to do."""
        times = []
        if self._unsaved_bytes:
            times.append(self._unsaved_since + SAVE_S)
        if self._ctx.connected and (due := self._download.deadline()) is not None:
            times.append(due)
        return min(times) if times else None

    def _save(self) -> None:
        self._unsaved_bytes, self._unsaved_since = 0, 0.0
        self._ctx.do(
            SaveBitmap(
                model=self._model,
                sha256=self.target.sha256,
                block_list=self._download.block_list or b"",
                bitmap=self._download.bitmap_bytes(),
            )
        )
