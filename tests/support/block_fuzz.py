"""Mutated blocks, block lists, bitmaps and requests against both ends of a transfer.

An input is a download of a small blob over a wire on which messages are changed, cut, repeated, swapped and
forged, by any of the ways; or what a restart finds on the disk, changed; or a request that the cloud is sent,
changed. What is written is the signed bytes, or nothing; what is said is an error of ours.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from support import ota_fuzz
from support.transfers import Served, target_of

from fleet.errors import OutriderError
from fleet.wire import codec
from fleet.wire.messages import Block, BlocksWanted, Refusal
from ota.transfer import serve
from ota.transfer.bitmap import Bitmap
from ota.transfer.blocks import parse_block_list
from ota.transfer.broadcast import Carousel
from ota.transfer.download import Download, Write
from ota.transfer.terms import Terms

SIZES = (1_024, 16 << 10, 32 << 10)
STEPS = 6


def run(kind: str, *, inputs: int, seed: int) -> ota_fuzz.Tally:
    """Feed `inputs` of them.

    Raises:
        ForeignError: one had another end; the message names the seed of that input alone.
    """
    wires = {size: _Wire(random.Random(size).randbytes(3 * size + 77), size) for size in SIZES}

    def judge(number: int) -> str:
        rng = random.Random(number)
        part = rng.choice((_download, _download, _download, _restart, _request, _listener))
        try:
            return part(wires[rng.choice(SIZES)], rng)
        except OutriderError as error:
            return error.code

    return ota_fuzz.tally(kind, judge, inputs=inputs, seed=seed)


class _Wire:
    """A blob and what is said of it."""

    def __init__(self, blob: bytes, size: int) -> None:
        self.blob, self.size = blob, size
        self.target = target_of(blob, size=size, terms=Terms(shared=5))
        self.served = Served(blob, size)
        self.listed = self.served.blobs[self.target.blocks_sha256]

    def check(self, writes: list[Write]) -> int:
        """Every byte that is written must be the signed one."""
        for write in writes:
            expected = self.blob[write.offset : write.offset + len(write.data)]
            if write.offset < 0 or write.data != expected:
                raise ota_fuzz.ForeignError(f"wrote other bytes at {write.offset}")
        return len(writes)


def _download(wire: _Wire, rng: random.Random) -> str:
    listed = wire.listed if rng.random() < 0.7 else None
    download, now, written = Download(wire.target, listed, tag="f-"), 0.0, 0
    for _ in range(STEPS):
        now += rng.choice((0.0, 0.1, 5.0))
        asked = []
        while (wanted := download.wanted(now)) is not None and len(asked) < 10:
            asked.append(wanted)
        answers = [block for wanted in asked for block in wire.served.answer(wanted)]
        answers.append(Block(digest=wire.target.sha256, index=rng.randrange(-3, 5), data=b"x"))
        rng.shuffle(answers)
        for block in answers:
            take = rng.choice((download.on_block, download.on_block, download.on_broadcast))
            payload = _mutated(codec.to_msgpack(_changed(block, rng)), rng)
            try:
                written += wire.check(take(codec.from_msgpack(Block, payload), now))
            except OutriderError as error:
                if error.code != "wire.malformed" and rng.random() < 0.1:
                    raise
        if asked and rng.random() < 0.1:
            refusal = Refusal(id=asked[0].id, code="x", text="x", retryable=rng.random() < 0.5)
            download.on_refusal(refusal, now)
        due = download.deadline()
        if due is None or rng.random() < 0.2:
            break
        now = max(now, due)
    return "written" if written else "nothing"


def _restart(wire: _Wire, rng: random.Random) -> str:
    genuine = Bitmap(4)
    genuine.add(rng.randrange(4))
    parse_block_list(_mutated(wire.listed, rng)) if rng.random() < 0.3 else None
    listed = _mutated(wire.listed, rng) if rng.random() < 0.5 else wire.listed
    download = Download(wire.target, listed, _mutated(genuine.to_bytes(), rng))
    download.wanted(0.0)
    return "resumed"


def _request(wire: _Wire, rng: random.Random) -> str:
    wanted = BlocksWanted(
        id="r", digest=wire.target.sha256,
        block_size_bytes=rng.choice((0, -1, 1, wire.size, 1 << 18, 1 << 40)),
        first=rng.choice((0, -1, 3, 1 << 50)),
        bitmap=rng.randbytes(rng.randrange(40)),
        limit=rng.choice((0, 1, -1, 1 << 50)),
        listening=rng.random() < 0.3,
    )  # fmt: skip
    wanted = codec.from_json(BlocksWanted, _mutated(codec.to_json(wanted), rng))
    blob = wire.blob
    sent = list(serve.blocks_for(wanted, lambda start, length: blob[start : start + length]))
    if sum(len(block.data) for block in sent) > serve.MAX_BLOCKS_PER_REQUEST * (1 << 18):
        raise ota_fuzz.ForeignError("sent more than a request may ask for")
    return "served"


def _listener(wire: _Wire, rng: random.Random) -> str:
    count = -(-len(wire.blob) // wire.size)
    carousel, now = Carousel(count, wire.size, 0.0), 0.0
    for _ in range(STEPS * 3):
        now += rng.choice((0.0, 0.3, 2.0))
        carousel.hear(
            rng.choice("abcde"), "r",
            first=rng.choice((0, 1, -1, 1 << 60)),
            bitmap=rng.randbytes(rng.choice((0, 1, 2, 500))),
            mark=rng.choice((0, 1, 2, -5, 1 << 60)),
            now=now,
        )  # fmt: skip
        carousel.step(now)
    return "heard"


def _changed(block: Block, rng: random.Random) -> Block:
    """A block that is well formed, and may be another than was sent."""
    if rng.random() < 0.6:
        return block
    changes: list[Callable[[], Block]] = [
        lambda: _with(block, index=rng.choice((0, 1, -1, 99, 1 << 40))),
        lambda: _with(block, unit=rng.choice((0, 1, 1_024, 16 << 10, -1, 1 << 40))),
        lambda: _with(block, data=block.data[: rng.randrange(len(block.data) + 1)]),
        lambda: _with(block, data=block.data + b"\0"),
        lambda: _with(block, data=_mutated(block.data, rng)),
        lambda: _with(block, digest="0" * 64),
    ]
    return rng.choice(changes)()


def _with(block: Block, **changes: object) -> Block:
    fields = {"digest": block.digest, "index": block.index, "data": block.data, "unit": block.unit}
    return Block(**(fields | changes))  # type: ignore[arg-type]  # the fields' own types


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with bits flipped, cut, doubled or inserted; often as they were."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 3))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            del changed[at : at + rng.randrange(1, 9)]
    return bytes(changed)
