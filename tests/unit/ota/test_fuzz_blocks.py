"""Whatever comes for blocks: what is written is the signed bytes, what is said is an error of ours."""

from __future__ import annotations

import pytest
from support import block_fuzz
from support.transfers import Served, target_of

from fleet.wire.messages import Block
from ota.transfer.bitmap import Bitmap
from ota.transfer.download import Download
from ota.transfer.terms import Terms

pytestmark = pytest.mark.agent


def test_blocks_lists_bitmaps_and_requests_that_were_changed_somewhere():
    """`make fuzz-ota` does the same with far more inputs."""
    tally = block_fuzz.run("blocks", inputs=1_500, seed=1_000_000)
    assert {"written", "nothing", "resumed", "served", "heard", "ota.transfer"} <= set(
        tally.outcomes
    )
    assert tally.grown_mib < 256


def test_a_forged_broadcast_of_a_block_behind_the_end_is_ignored():
    blob = bytes(5_000)
    target, served = target_of(blob, size=1_024, terms=Terms(shared=5)), Served(blob, 1_024)
    download = Download(target, served.blobs[target.blocks_sha256])
    assert download.wanted(0.0) is not None
    forged = Block(digest=target.sha256, index=1 << 40, data=b"x", unit=1_024)
    assert download.on_broadcast(forged, 0.1) == []
    assert 1 << 40 not in Bitmap(5)
