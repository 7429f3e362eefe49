"""Content-defined chunks."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.delta import chunks
from ota.errors import DeltaError

pytestmark = pytest.mark.agent
AVERAGE = chunks.MIN_AVERAGE_BYTES


def reader(data: bytes):
    return lambda at, length: data[at : at + length]


def listed(data: bytes, average: int = AVERAGE) -> bytes:
    found = chunks.cut(reader(data), len(data), average_bytes=average)
    return chunks.write_list(found, length_bytes=len(data), average_bytes=average)


def noise(seed: int, length: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8).tobytes()


@given(st.integers(0, 2**32), st.integers(0, 3_000_000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_chunks_make_the_file_whatever_it_is(seed, length, flat):
    data = bytes(length) if flat else noise(seed, length)
    found = chunks.parse_list(listed(data)).chunks
    assert sum(chunk.length for chunk in found) == length
    for chunk in found:
        piece = data[chunk.at : chunk.at + chunk.length]
        assert hashlib.sha256(piece).digest()[:16] == chunk.digest
        assert chunk.length <= 4 * AVERAGE
    assert all(chunk.length >= AVERAGE // 4 for chunk in found[:-1])


def test_what_moved_is_found_again_and_only_what_changed_is_missing():
    backbone, head = noise(1, 2_000_000), noise(2, 60_000)
    old = b"header" + backbone + noise(3, 60_000)
    new = b"a header that is longer" + backbone + head
    wanted = chunks.parse_list(listed(new))
    files = [(reader(noise(9, 50_000)), 50_000), (reader(old), len(old))]
    pieces = list(chunks.held(wanted, files))
    for piece in pieces:
        assert chunks.fill(piece, files) == new[piece.at : piece.at + piece.length]
    assert sum(piece.length for piece in pieces) > 0.9 * len(backbone)
    bitmap = chunks.covered(pieces, length_bytes=len(new), block_size_bytes=65_536)
    held = set(range(bitmap.count)) - set(bitmap.missing())
    for index in held:
        blocks = [
            p for p in pieces if p.at < (index + 1) * 65_536 and p.at + p.length > index * 65_536
        ]
        assert blocks[0].at <= index * 65_536
    assert len(held) >= 25


def test_the_last_block_of_a_file_may_be_short():
    data = noise(4, 70_000)
    wanted = chunks.parse_list(listed(data))
    pieces = list(chunks.held(wanted, [(reader(data), len(data))]))
    assert chunks.covered(pieces, length_bytes=len(data), block_size_bytes=65_536).full


def test_a_file_that_changed_meanwhile_is_noticed():
    data = noise(5, 200_000)
    wanted = chunks.parse_list(listed(data))
    piece = next(chunks.held(wanted, [(reader(data), len(data))]))
    with pytest.raises(DeltaError, match="was there a moment ago"):
        chunks.fill(piece, [(reader(bytes(200_000)), 200_000)])
    with pytest.raises(DeltaError, match="expected"):
        list(chunks.held(wanted, [(reader(data[:100]), len(data))]))


LIST = listed(noise(6, 300_000))


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_damaged_list_is_refused_or_still_makes_its_length(data):
    damaged = bytearray(LIST)
    at = data.draw(st.integers(0, len(LIST) - 1))
    if data.draw(st.booleans()):
        damaged[at] ^= data.draw(st.integers(1, 255))
    else:
        del damaged[at:]
    try:
        found = chunks.parse_list(bytes(damaged))
    except DeltaError:
        return
    assert sum(chunk.length for chunk in found.chunks) == found.length_bytes


def test_long_files_get_longer_chunks():
    assert chunks.average_for(1 << 20) == AVERAGE
    for length in (1 << 30, 4 << 30, 40 << 30):
        average = chunks.average_for(length)
        assert length // average * 20 <= chunks.MAX_LIST_BYTES
