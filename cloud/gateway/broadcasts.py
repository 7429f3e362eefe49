"""Broadcasts of blobs: devices of a wave that want the same one at the same time get it over one topic.

Rules:
- Not thread-safe: `cloud.gateway.blocks` calls it under its lock, and sends what it says.
- A broadcast that cannot be, or that is over, refuses its listeners: they pull what they miss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleet.wire.messages import Block, BlocksWanted, Refusal
from fleet.wire.topics import UpTopic
from ota.transfer.broadcast import Carousel, Say

MAX_BROADCASTS = 64
OVER = "blob.not_broadcast"

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class ToAll:
    """A block, or a mark, for everybody who listens."""

    tenant: str
    block: Block


@dataclass(frozen=True)
class ToOne:
    """A listener is to leave, and to pull."""

    topic: UpTopic
    refusal: Refusal


@dataclass
class _Session:
    tenant: str
    digest: str
    carousel: Carousel
    read: Read
    topics: dict[str, UpTopic]


class Broadcasts:
    """All broadcasts of one gateway."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str, int], _Session] = {}

    def __bool__(self) -> bool:
        return bool(self._sessions)

    def hear(
        self, topic: UpTopic, wanted: BlocksWanted, read: Read, count: int, now: float
    ) -> Refusal | None:
        """A device joins, or says what it misses. A refusal: there is no broadcast for it.

        Args:
            topic: whose.
            wanted: what it misses.
            read: reads the blob.
            count: number of the blob's blocks.
            now: monotonic time, seconds.
        """
        key = (topic.tenant, wanted.digest, wanted.block_size_bytes)
        session = self._sessions.get(key)
        if session is None:
            if wanted.mark or len(self._sessions) >= MAX_BROADCASTS:
                return _over(wanted.id)
            carousel = Carousel(count, wanted.block_size_bytes, now)
            session = _Session(topic.tenant, wanted.digest, carousel, read, {})
            self._sessions[key] = session
        session.topics[topic.device] = topic
        session.carousel.hear(
            topic.device,
            wanted.id,
            first=wanted.first,
            bitmap=wanted.bitmap,
            mark=wanted.mark,
            now=now,
        )
        return None

    def pulls(self, topic: UpTopic, digest: str, now: float) -> None:
        """A device asks for blocks of its own: it does not listen any more."""
        for (tenant, of, _), session in self._sessions.items():
            if (tenant, of) == (topic.tenant, digest):
                session.carousel.leave(topic.device, now)

    def next(self, now: float) -> list[ToAll | ToOne]:
        """What to send now, at most one thing of each broadcast."""
        out: list[ToAll | ToOne] = []
        for key, session in list(self._sessions.items()):
            out += self._next_of(session, now)
            if session.carousel.closed:
                del self._sessions[key]
                out += [
                    ToOne(session.topics[device], _over(request))
                    for device, request in session.carousel.requests().items()
                ]
        return out

    def _next_of(self, session: _Session, now: float) -> list[ToAll | ToOne]:
        step = session.carousel.step(now)
        if step is None:
            return []
        if step.say is Say.LEAVE:
            return [ToOne(session.topics[step.device], _over(step.request))]
        if step.say is Say.MARK:
            return [
                ToAll(session.tenant, Block(digest=session.digest, index=-step.number, data=b""))
            ]
        unit = session.carousel.block_bytes
        data = session.read(step.number * unit, unit)
        block = Block(digest=session.digest, index=step.number, data=data, unit=unit)
        return [ToAll(session.tenant, block)]


def _over(request: str) -> Refusal:
    text = "no broadcast of this blob for this device now; ask for its blocks"
    return Refusal(id=request, code=OVER, text=text, retryable=True)
