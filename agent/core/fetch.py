"""Driving one blob's download: requests up, blocks to the disk, the bitmap now and then.

Rules:
- The bitmap is saved after `SAVE_BYTES` but not more often than every `SAVE_LEAST_S`, after `SAVE_S` in any case,
  and at the end; the disk makes the blocks durable before it saves which they are. So a power cut costs
  seconds, and a fast link does not wait for the disk every few milliseconds.
- Where a request goes is the route's choice; what comes is proved in the same way whatever way it came.
"""

from __future__ import annotations

from agent.core.commands import GetBlocks, Listen, SaveBitmap, WriteBlock
from agent.core.context import Context
from fleet.wire import codec
from fleet.wire.messages import Block, BlocksWanted, Refusal
from ota.transfer.download import Download, Write
from ota.transfer.route import Route, Way
from ota.verify.trust import Target

SAVE_BYTES = 4 << 20
SAVE_LEAST_S = 1.0
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
        above = target.terms.https_above_bytes
        self._route = Route(
            prefers_https=0 < above < target.length_bytes, possible=ctx.settings.https
        )
        self._listens = False
        self._https_n = 0
        self._broadcast_n = 0
        self._unsaved_bytes = 0
        self._unsaved_since = 0.0
        self._reported = self._download.progress
        self.began = ctx.now
        self._ended = 0.0

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
            "blocks_by_https": float(self._https_n),
            "blocks_by_broadcast": float(self._broadcast_n),
            "fetch_s": round((self._ended or self._ctx.now) - self.began, 3),
        }

    def pump(self) -> None:
        """Send what requests may be sent; save what is due."""
        if self._unsaved_bytes and self._ctx.now >= self._unsaved_since + SAVE_S:
            self.save()
        vain_n = self._download.pace.vain_n
        if self._route.choose(self._ctx.now, connected=self._ctx.connected, vain_n=vain_n):
            self._download.on_reconnect()
            self._download.pace.vain_n = 0
        while self._route.way is not None:
            wanted = self._download.wanted(self._ctx.now)
            self._listen(on=self._download.hearing.on)
            if wanted is None:
                return
            self._send(wanted)

    def _send(self, wanted: BlocksWanted) -> None:
        if self._route.way is Way.HTTPS and not wanted.listening:
            self._ctx.do(GetBlocks(model=self._model, wanted=wanted))
        else:
            self._ctx.publish("req", codec.to_json(wanted), counter=0)

    def _listen(self, *, on: bool) -> None:
        if on is not self._listens:
            self._listens = on
            self._ctx.do(Listen(sha256=self.target.sha256, on=on))

    def on_block(self, block: Block, *, broadcast: bool = False) -> None:
        """A block arrived over MQTT, this one's or another's.

        Raises:
            TransferError: the release must be repaired.
        """
        if broadcast:
            writes = self._download.on_broadcast(block, self._ctx.now)
            self._broadcast_n += len(writes)
        else:
            writes = self._download.on_block(block, self._ctx.now)
        self._write(writes)

    def on_https(self, block: Block) -> None:
        """A block arrived over HTTPS.

        Raises:
            TransferError: the release must be repaired.
        """
        self._route.worked()
        writes = self._download.on_block(block, self._ctx.now)
        self._https_n += len(writes)
        self._write(writes)

    def https_failed(self, request: str, problem: str) -> None:
        """A request over HTTPS came to nothing; what it asked for is asked for again."""
        if self._download.forget(request):
            self._route.failed(self._ctx.now, problem)
            self._ctx.log("warning", "transfer.https", problem, model=self._model)

    def _write(self, writes: list[Write]) -> None:
        for write in writes:
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
        if self._download.complete:
            self._ended = self._ended or self._ctx.now
        due = self._ctx.now >= self._unsaved_since + SAVE_LEAST_S
        if (self._unsaved_bytes >= SAVE_BYTES and due) or self._download.complete:
            self.save()

    def on_refusal(self, refusal: Refusal) -> None:
        """A request was refused, this one's or another's.

        Raises:
            TransferError: asking again is of no use.
        """
        self._download.on_refusal(refusal, self._ctx.now)

    def on_reconnect(self) -> None:
        """The MQTT link was cut: nothing that was asked for there will come any more."""
        if self._route.way is not Way.HTTPS:
            self._download.on_reconnect()
        self._listen(on=False)

    def end(self) -> None:
        """It is not gone on with: hear nothing more."""
        self._listen(on=False)

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
        if (due := self._route.deadline(self._ctx.now)) is not None:
            times.append(due)
        if self._route.way is not None and (due := self._download.deadline()) is not None:
            times.append(due)
        return min(times) if times else None

    def save(self) -> None:
        """Have the bitmap saved, where it has grown."""
        if not self._unsaved_bytes:
            return
        self._unsaved_bytes, self._unsaved_since = 0, 0.0
        self._ctx.do(
            SaveBitmap(
                model=self._model,
                sha256=self.target.sha256,
                block_list=self._download.block_list or b"",
                bitmap=self._download.bitmap_bytes(),
            )
        )
