from __future__ import annotations

import contextlib
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.errors import TransferError
from ota.transfer import bitmap
from ota.transfer.bitmap import Bitmap
from ota.transfer.blocks import (
    MAX_BLOCK_BYTES,
    MAX_LIST_BYTES,
    MIN_BLOCK_BYTES,
    block_list,
    choose_block_size,
    parse_block_list,
)

pytestmark = pytest.mark.agent


@given(st.binary(max_size=20_000), st.integers(MIN_BLOCK_BYTES, 8_192))
def test_a_block_list_describes_its_blob_and_proves_each_block(data: bytes, size: int):
    parsed = parse_block_list(block_list(data, size))
    assert (parsed.block_size, parsed.length) == (size, len(data))
    assert parsed.sha256 == hashlib.sha256(data).hexdigest()
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    assert parsed.count == len(blocks)
    for index, block in enumerate(blocks):
        assert parsed.holds(index, block)
        assert not parsed.holds(index, block[:-1])
        assert not parsed.holds(index, bytes([block[0] ^ 1]) + block[1:])
        assert not parsed.holds(index + len(blocks), block)
        assert not parsed.holds(-1, block)


@given(st.binary(max_size=200))
def test_junk_is_no_block_list(junk: bytes):
    with pytest.raises(TransferError):
        parse_block_list(junk)


@given(st.data())
def test_a_changed_block_list_is_refused_or_reads_differently(data: st.DataObject):
    original = block_list(bytes(5_000), 1_024)
    at = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(TransferError):
        assert parse_block_list(bytes(changed)) != parse_block_list(original)
    with pytest.raises(TransferError):
        parse_block_list(original[:at])


@pytest.mark.parametrize("length", [0, 1, 1 << 20, 5 << 20, 1 << 30, (1 << 30) + 1, 6 << 30])
def test_the_chosen_block_size_keeps_the_list_in_one_message(length: int):
    size = choose_block_size(length)
    assert 16 * 1024 <= size <= MAX_BLOCK_BYTES
    assert 70 + 32 * -(-length // size) <= MAX_LIST_BYTES


@pytest.mark.parametrize("size", [0, MIN_BLOCK_BYTES - 1, MAX_BLOCK_BYTES + 1])
def test_block_sizes_out_of_range_are_refused(size: int):
    with pytest.raises(TransferError, match="block size"):
        block_list(b"x", size)


@given(st.sets(st.integers(0, 500)), st.integers(501, 600))
def test_a_bitmap_holds_what_was_added_and_survives_storage(indices: set[int], count: int):
    there = Bitmap(count)
    for index in indices:
        there.add(index)
        there.add(index)
    again = Bitmap(count, there.to_bytes())
    assert len(again) == len(indices)
    assert set(again.missing()) == set(range(count)) - indices
    assert all(index in again for index in indices)
    assert not again.full


@given(st.sets(st.integers(0, 2_000)))
def test_requests_name_exactly_the_blocks_that_were_meant(indices: set[int]):
    assert list(bitmap.unpack(*bitmap.pack(indices))) == sorted(indices)


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0", b"\0\xff"])
def test_a_bitmap_of_another_download_is_refused(data: bytes):
    with pytest.raises(TransferError, match="start again"):
        Bitmap(12, data)
