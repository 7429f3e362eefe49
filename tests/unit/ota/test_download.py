from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import transfers

from fleet.wire.messages import Block, BlocksWanted, Refusal
from ota.errors import TransferError
from ota.transfer.blocks import block_list, parse_block_list
from ota.transfer.download import Download
from ota.transfer.serve import MAX_BLOCKS_PER_REQUEST, blocks_for
from ota.transfer.terms import Terms
from ota.verify.trust import Target

pytestmark = pytest.mark.agent

SIZE = 1_024


def target_of(
    blob: bytes, listed: bytes | None = None, *, size: int = SIZE, terms: Terms | None = None
) -> Target:
    return transfers.target_of(blob, listed, size=size, terms=terms)


class Cloud(transfers.Served):
    """Serves a blob in small blocks."""

    def __init__(self, blob: bytes, size: int = SIZE) -> None:
        super().__init__(blob, size)


def requests(download: Download, now: float) -> list[BlocksWanted]:
    out = []
    while (wanted := download.wanted(now)) is not None:
        out.append(wanted)
        assert len(out) < 100
    return out


def fetch(download: Download, cloud: Cloud, disk: bytearray, *, now: float = 0.0) -> float:
    """Fetch over a link that loses nothing; return the time at the end."""
    for _ in range(10_000):
        if download.complete:
            return now
        for wanted in requests(download, now):
            for block in cloud.answer(wanted):
                now += 0.01
                for write in download.on_block(block, now):
                    disk[write.offset : write.offset + len(write.data)] = write.data
    raise AssertionError("the download never ended")


@pytest.mark.parametrize("length", [0, 1, SIZE, SIZE + 1, 100 * SIZE - 7])
def test_a_blob_arrives_whole(length: int):
    blob = random.Random(length).randbytes(length)
    disk = bytearray(length)
    download = Download(target_of(blob))
    assert not download.complete
    fetch(download, Cloud(blob), disk)
    assert bytes(disk) == blob
    assert download.progress == 1.0
    assert download.bytes_done == length
    assert download.deadline() is None
    assert download.wanted(1e9) is None


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(0, 40 * SIZE),
    st.floats(0, 0.6),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.floats(0, 0.05),
)
def test_any_loss_duplication_reordering_forgery_and_restart_ends_in_the_signed_blob(
    seed: int, length: int, loss: float, repeat: float, forge: float, restart: float
):
    rng = random.Random(seed)
    blob = rng.randbytes(length)
    cloud, target = Cloud(blob), target_of(blob)
    disk = bytearray(length)
    download, now, link = Download(target), 0.0, []
    for _ in range(20_000):
        if download.complete:
            break
        link += [b for wanted in requests(download, now) for b in cloud.answer(wanted)]
        if not link:
            now = max(now, download.deadline() or now)
            continue
        block = link.pop(rng.randrange(min(len(link), 3)))
        now += 0.05
        if rng.random() < loss:
            continue
        if rng.random() < repeat:
            link.append(block)
        if rng.random() < forge:
            junk = rng.randbytes(rng.choice([0, 1, len(block.data), SIZE]))
            block = Block(digest=block.digest, index=rng.randrange(-2, 60), data=junk)
        for write in download.on_block(block, now):
            disk[write.offset : write.offset + len(write.data)] = write.data
        if rng.random() < restart:
            link.clear()
            kept = download.block_list if rng.random() < 0.5 else None
            download = Download(target, kept, download.bitmap_bytes(), tag="again-")
    assert download.complete
    assert bytes(disk) == blob


def test_a_restart_asks_only_for_what_is_missing():
    blob = random.Random(1).randbytes(20 * SIZE)
    cloud, disk = Cloud(blob), bytearray(20 * SIZE)
    first = Download(target_of(blob))
    (wanted,) = requests(first, 0.0)
    assert wanted.digest == target_of(blob).blocks_sha256
    first.on_block(cloud.answer(wanted)[0], 0.1)
    for block in cloud.answer(requests(first, 0.1)[0]):
        for write in first.on_block(block, 0.2):
            disk[write.offset : write.offset + SIZE] = write.data
    done = first.bytes_done
    assert 0 < done < 20 * SIZE

    second = Download(target_of(blob), first.block_list, first.bitmap_bytes())
    assert second.bytes_done == done
    asked = requests(second, 0.0)[0]
    assert asked.first == done // SIZE
    second.on_reconnect()
    fetch(second, cloud, disk)
    assert bytes(disk) == blob


@pytest.mark.parametrize(
    ("size", "rate"),
    [(64 << 10, 32_000), (256 << 10, 32_000), (16 << 10, 32_000), (64 << 10, 4_000_000)],
)
def test_at_most_a_second_of_the_measured_rate_is_in_flight(size: int, rate: int):
    blob = bytes(64 << 20)
    cloud, download = Cloud(blob, size), Download(target_of(blob, size=size))
    link: list[Block] = []
    most, now = 0, 0.0
    for _ in range(400):
        link += [b for wanted in requests(download, now) for b in cloud.answer(wanted)]
        most = max(most, sum(len(block.data) for block in link))
        block = link.pop(0)
        now += len(block.data) / rate
        download.on_block(block, now)
    assert 0.4 * rate <= most <= max(1.05 * rate, 32 << 10)


def test_a_thin_link_gets_pieces_of_blocks_and_a_wide_one_gets_blocks():
    blob = random.Random(5).randbytes(4 << 20)
    for rate, unit in ((32_000, 16 << 10), (5_000_000, 64 << 10)):
        cloud, download = Cloud(blob, 64 << 10), Download(target_of(blob, size=64 << 10))
        disk, now = bytearray(len(blob)), 0.0
        link: list[Block] = []
        while not download.complete:
            link += [b for wanted in requests(download, now) for b in cloud.answer(wanted)]
            block = link.pop(0)
            now += len(block.data) / rate
            for write in download.on_block(block, now):
                disk[write.offset : write.offset + len(write.data)] = write.data
        assert block.unit == unit
        assert bytes(disk) == blob


@pytest.mark.parametrize("limit", [10_000, 100_000, 3_000_000])
def test_no_more_is_asked_for_than_the_assignment_allows(limit: int):
    blob = random.Random(6).randbytes(2 << 20)
    cloud = Cloud(blob, 64 << 10)
    download = Download(target_of(blob, size=64 << 10, terms=Terms(limit_bytes_s=limit)))
    disk, now = bytearray(len(blob)), 0.0
    while not download.complete:
        for wanted in requests(download, now):
            for block in cloud.answer(wanted):
                now += len(block.data) / 50_000_000
                for write in download.on_block(block, now):
                    disk[write.offset : write.offset + len(write.data)] = write.data
        now = max(now, download.deadline() or now)
    assert bytes(disk) == blob
    assert 0.8 * len(blob) / limit <= now + 1.0 <= 1.3 * len(blob) / limit + 1.5


def test_silence_is_asked_again_less_and_less_often():
    download = Download(target_of(b"x" * 5_000))
    asked_at, now = [], 0.0
    while len(asked_at) < 6:
        asked_at += [now for _ in requests(download, now)]
        now = max(now + 0.001, download.deadline() or 0.0)
    gaps = [b - a for a, b in pairwise(asked_at)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 5
    assert gaps[-1] <= 60.1


def test_after_a_reconnect_it_asks_at_once():
    download = Download(target_of(b"x" * 5_000))
    assert len(requests(download, 0.0)) == 1
    assert requests(download, 0.5) == []
    download.on_reconnect()
    assert len(requests(download, 0.5)) == 1


def test_a_refusal_waits_or_ends():
    download = Download(target_of(b"x" * 5_000))
    (wanted,) = requests(download, 0.0)
    download.on_refusal(Refusal(id="another", code="c", text="t"), 0.0)
    download.on_refusal(Refusal(id=wanted.id, code="busy", text="later", retryable=True), 1.0)
    assert requests(download, 1.5) == []
    (again,) = requests(download, download.deadline() or 0.0)
    with pytest.raises(TransferError, match="deleted"):
        download.on_refusal(Refusal(id=again.id, code="blob.gone", text="deleted"), 99.0)


def test_a_signed_list_that_describes_another_blob_is_an_error():
    blob = b"x" * 5_000
    wrong = block_list(b"y" * 5_000, SIZE)
    with pytest.raises(TransferError, match="repaired"):
        Download(target_of(blob, wrong), wrong)


def test_a_stored_list_that_was_damaged_is_an_error():
    blob = b"x" * 5_000
    with pytest.raises(TransferError, match="fetched again"):
        Download(target_of(blob), block_list(blob, SIZE)[:-1])


def test_a_forged_list_is_ignored():
    blob = b"x" * 5_000
    target = target_of(blob)
    download = Download(target)
    requests(download, 0.0)
    forged = Block(digest=target.blocks_sha256, index=0, data=block_list(b"evil", SIZE))
    assert download.on_block(forged, 0.1) == []
    assert download.rejected == 1
    assert download.block_list is None


def wanted_of(**changes) -> BlocksWanted:
    fields = {
        "id": "1",
        "digest": "d",
        "block_size_bytes": SIZE,
        "first": 0,
        "bitmap": b"\xff",
        "limit": 8,
    }
    return BlocksWanted(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [{"block_size_bytes": 5}, {"block_size_bytes": 1 << 30}, {"first": -1}, {"limit": -1}],
)
def test_requests_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(TransferError):
        list(blocks_for(wanted_of(**changes), lambda offset, length: b"x" * length))


def test_a_request_reads_no_more_than_it_may():
    read = []

    def reader(offset: int, length: int) -> bytes:
        read.append((offset, length))
        return bytes(length)

    everything = wanted_of(bitmap=b"\xff" * 100_000, limit=1 << 40)
    assert len(list(blocks_for(everything, reader))) == MAX_BLOCKS_PER_REQUEST
    assert len(read) == MAX_BLOCKS_PER_REQUEST
    with pytest.raises(TransferError, match="ask for it in blocks"):
        list(blocks_for(wanted_of(block_size_bytes=0), reader))


def test_blocks_behind_the_end_are_not_sent():
    blob = bytes(SIZE + 1)
    sent = list(blocks_for(wanted_of(), lambda offset, length: blob[offset : offset + length]))
    assert [(b.index, len(b.data)) for b in sent] == [(0, SIZE), (1, 1)]
    assert parse_block_list(block_list(blob, SIZE)).holds(1, sent[1].data)
