"""Blocks of blobs for devices: who asks in turn, at a pace that leaves the connection free for the rest.

Rules:
- A device gets the blobs of its assignment, what leads to them with less to send, and the block lists of both.
- Requests of one device are answered in order; devices take turns block by block.
- At most `MAX_UNSENT_BYTES` wait in the connection, and no device gets more than its rate, so that a
  message that matters never waits behind many blocks.
- A request may be forgotten at any time: the device asks again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from cloud.blobs import BlobStore
from cloud.context import Context
from cloud.errors import BlobMissingError
from cloud.gateway import metrics
from cloud.gateway.broadcasts import Broadcasts, ToOne
from cloud.gateway.link import Sent
from fleet.registry.repositories import Models, Trust, Ways
from fleet.wire import codec
from fleet.wire.messages import Block, BlocksWanted, Refusal
from fleet.wire.topics import UpTopic
from ota.errors import TransferError
from ota.transfer import serve

MAX_UNSENT_BYTES = 2 << 20
RATE_BYTES_S = 256 << 20
MAX_REQUESTS_PER_DEVICE = 8
MAX_DEVICES = 10_000
_BURST_S = 0.25
_WAIT_S = 0.002
_AHEAD_BYTES = 1 << 20
_AHEAD_LINES = 16
_BROADCAST_WAIT_S = 0.01
_IDLE_S = 0.5
log = logging.getLogger(__name__)

SendBlock = Callable[[UpTopic, bytes], Sent]


@dataclass(frozen=True)
class Outlets:
    """How blocks leave.

    Attributes:
        block: publishes a block to a device; tells when it has left.
        to_all: publishes one on a blob's topic: tenant, digest, payload.
        refuse: tells a device that its request is not served.
    """

    block: SendBlock
    to_all: Callable[[str, str, bytes], Sent]
    refuse: Callable[[UpTopic, Refusal], None]


@dataclass
class _Line:
    """One device's requests, and how much it may get now."""

    topic: UpTopic
    seen: float
    requests: deque[Iterator[Block]] = field(default_factory=deque)
    credit_bytes: float = RATE_BYTES_S * _BURST_S

    def refill(self, now: float) -> None:
        most = RATE_BYTES_S * _BURST_S
        self.credit_bytes = min(most, self.credit_bytes + (now - self.seen) * RATE_BYTES_S)
        self.seen = now


class BlockServer:
    """Answers requests for blocks from a thread of its own.

    Args:
        context: holds the blob store and the registry.
        outlets: how they leave.
    """

    def __init__(self, context: Context, outlets: Outlets) -> None:
        self._context = context
        self._outlets = outlets
        self._broadcasts = Broadcasts()
        self._lines: OrderedDict[str, _Line] = OrderedDict()  # those with requests, next first
        self._resting: dict[str, _Line] = {}  # those without, while their credit is not full again
        self._changed = threading.Condition()
        self._closing = False
        self._unsent: deque[tuple[Sent, int]] = deque()
        self._unsent_bytes = 0
        self._thread = threading.Thread(target=self._run, name="gateway-blocks", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Serve no more; what was asked for is forgotten."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def ask(self, topic: UpTopic, wanted: BlocksWanted) -> Refusal | None:
        """Take a request; a refusal is for the device to read."""
        blocks = self.open(topic, wanted)
        if isinstance(blocks, Refusal):
            return blocks
        if wanted.listening:
            return self._hear(topic, wanted)
        if self._queue(topic, wanted.digest, blocks):
            return None
        return Refusal(
            id=wanted.id, code="blob.busy", text="too many requests wait; ask again", retryable=True
        )

    def open(self, topic: UpTopic, wanted: BlocksWanted) -> Iterator[Block] | Refusal:
        """The blocks that a request asks for, or why the device does not get them."""
        if not assigned(self._context, topic.device, wanted.digest):
            text = f"expected a blob of the assignment of {topic.device!r}, found {wanted.digest!r}"
            return Refusal(id=wanted.id, code="blob.not_assigned", text=text)
        try:
            serve.check(wanted)
            self._context.blobs.size(wanted.digest)
        except TransferError as error:
            return Refusal(id=wanted.id, code=error.code, text=str(error))
        except BlobMissingError as error:
            return Refusal(id=wanted.id, code=error.code, text=str(error), retryable=True)
        return serve.blocks_for(wanted, self._reader(wanted.digest))

    def _reader(self, digest: str) -> serve.Read:
        return _Ahead(self._context.blobs, digest, lambda: len(self._lines) <= _AHEAD_LINES)

    def _hear(self, topic: UpTopic, wanted: BlocksWanted) -> Refusal | None:
        read = self._reader(wanted.digest)
        size = self._context.blobs.size(wanted.digest)
        count = -(-size // max(1, wanted.block_size_bytes))
        with self._changed:
            now = time.monotonic()
            refusal = self._broadcasts.hear(topic, wanted, read, count, now)
            self._changed.notify_all()
            return refusal

    def _queue(self, topic: UpTopic, digest: str, blocks: Iterator[Block]) -> bool:
        with self._changed:
            if self._broadcasts:
                self._broadcasts.pulls(topic, digest, time.monotonic())
            line = self._lines.get(topic.device) or self._resting.pop(topic.device, None)
            if line is None:
                line = _Line(topic, seen=time.monotonic())
            if len(self._lines) >= MAX_DEVICES or len(line.requests) >= MAX_REQUESTS_PER_DEVICE:
                return False
            line.requests.append(blocks)
            self._lines[topic.device] = line
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._busy, _IDLE_S)
                if self._closing:
                    return
            if not self._has_room():
                time.sleep(_WAIT_S)
                continue
            served = self._serve_broadcasts()
            with self._changed:
                line = self._next_line(time.monotonic())
            if line is not None:
                self._serve_line(line)
            elif not served:
                self._rest()

    def _busy(self) -> bool:
        return bool(self._lines or self._broadcasts or self._closing)

    def _rest(self) -> None:
        """Wait for a request, or for time to pass."""
        with self._changed:
            self._changed.wait(_WAIT_S if self._lines else _BROADCAST_WAIT_S)

    def _serve_broadcasts(self) -> bool:
        with self._changed:
            if not self._broadcasts:
                return False
            try:
                due = self._broadcasts.next(time.monotonic())
            except Exception:
                log.exception("a broadcast failed; its listeners will pull")
                self._broadcasts = Broadcasts()
                return False
        for each in due:
            if isinstance(each, ToOne):
                self._outlets.refuse(each.topic, each.refusal)
                continue
            payload = codec.to_msgpack(each.block)
            self._left(self._outlets.to_all(each.tenant, each.block.digest, payload), payload)
            metrics.BROADCAST_BLOCKS.inc()
            metrics.BROADCAST_BYTES.inc(len(payload))
        return bool(due)

    def _serve_line(self, line: _Line) -> None:
        try:
            self._serve_one(line)
        except Exception:
            log.exception("blocks for %s failed", line.topic.device)
            self._finish_request(line)

    def _next_line(self, now: float) -> _Line | None:
        for device in list(self._lines):
            line = self._lines[device]
            line.refill(now)
            if line.credit_bytes > 0:
                self._lines.move_to_end(device)
                return line
        return None

    def _has_room(self) -> bool:
        while self._unsent and self._unsent[0][0].gone:
            self._unsent_bytes -= self._unsent.popleft()[1]
        return self._unsent_bytes < MAX_UNSENT_BYTES

    def _serve_one(self, line: _Line) -> None:
        block = next(line.requests[0], None)
        if block is None:
            self._finish_request(line)
            return
        payload = codec.to_msgpack(block)
        self._left(self._outlets.block(line.topic, payload), payload)
        line.credit_bytes -= len(payload)
        metrics.BLOCKS.inc()
        metrics.BLOCK_BYTES.inc(len(payload))

    def _left(self, sent: Sent, payload: bytes) -> None:
        self._unsent.append((sent, len(payload)))
        self._unsent_bytes += len(payload)

    def _finish_request(self, line: _Line) -> None:
        device = line.topic.device
        with self._changed:
            line.requests.popleft()
            if line.requests:
                return
            del self._lines[device]
            self._resting[device] = line
            now = time.monotonic()
            full = [name for name, each in self._resting.items() if now - each.seen > _BURST_S]
            for name in full:
                del self._resting[name]


def assigned(context: Context, device: str, digest: str) -> bool:
    """Whether a device may have a blob: an artifact of its assignment, a way to one, or a block list of these."""
    with context.read() as session:
        digests = Trust(session).assigned_digests(device)
        if digest in digests:
            return True
        owner = Models(session).artifact_of_blocks(digest)
        if owner is not None and owner.sha256 in digests:
            return True
        return not digests.isdisjoint(Ways(session).results_of(digest))


class _Ahead:
    """Reads a blob ahead while few devices ask, so that neighbouring blocks cost one read.

    Args:
        blobs: where it is kept.
        digest: the blob's.
        ahead: whether reading ahead is worth its memory now.
    """

    def __init__(self, blobs: BlobStore, digest: str, ahead: Callable[[], bool]) -> None:
        self._blobs, self._digest, self._ahead = blobs, digest, ahead
        self._at, self._held = 0, b""

    def __call__(self, offset: int, length: int) -> bytes:
        start = offset - self._at
        if start >= 0 and start + length <= len(self._held):
            return self._held[start : start + length]
        if not self._ahead():
            self._held = b""
            return self._blobs.read(self._digest, offset, length)
        self._at, self._held = (
            offset,
            self._blobs.read(self._digest, offset, max(length, _AHEAD_BYTES)),
        )
        return self._held[:length]
