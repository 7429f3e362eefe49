"""Frames between daemon and worker."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.serving import protocol
from agent.serving.port import Figures, SelfTest, WorkerSpec
from fleet.errors import WireError
from fleet.telemetry import histogram
from fleet.telemetry.window import LATENCY_EDGES_MS

pytestmark = pytest.mark.agent

SPEC = WorkerSpec(
    model="m", release="m@1", path=Path("/a/ä"), sha256="0" * 64, length_bytes=9, threads=2
)
ORDERS = [
    protocol.Load(id=1, spec=SPEC),
    protocol.RunSelfTest(id=2),
    protocol.Promote(id=3),
    protocol.Drain(id=4, idle_s=0.5, limit_s=9.0),
    protocol.TakeFigures(id=5),
    protocol.Ping(id=6),
    protocol.Stop(id=7),
]
ANSWERS = [
    protocol.Done(id=1),
    protocol.Tested(
        id=2,
        outcome=SelfTest(
            passed=True, cosine_min=0.5, max_abs=0.1, latency_ms_p50=1.0, peak_memory_mib=3.0
        ),
    ),
    protocol.Taken(
        id=3,
        figures=Figures(
            inferences=3,
            errors=1,
            features={"input:x:mean": histogram.empty((0.0, 1.0))},
            latency_ms=histogram.empty(LATENCY_EDGES_MS),
            classes={0: 2, 7: 1},
        ),
    ),
    protocol.Pong(id=4, busy_s=0.25),
    protocol.Failed(id=5, code="runtime.load", text="no"),
]


@given(st.data())
def test_frames_survive_any_cut(data) -> None:
    reader, sent = data.draw(
        st.sampled_from([(protocol.orders, ORDERS), (protocol.answers, ANSWERS)])
    )
    chosen = data.draw(st.lists(st.sampled_from(sent), max_size=5))
    stream = b"".join(protocol.encode(message) for message in chosen)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    frames = reader()
    found = [m for a, b in itertools.pairwise(edges) for m in frames.feed(stream[a:b])]
    assert found == chosen


@given(st.binary(min_size=1, max_size=60))
def test_junk_is_a_wire_error(junk: bytes) -> None:
    with pytest.raises(WireError):
        protocol.answers().feed(struct.pack(">I", len(junk)) + junk)


def test_orders_are_no_answers() -> None:
    with pytest.raises(WireError):
        protocol.answers().feed(protocol.encode(protocol.Ping(id=1)))


def test_frames_are_bounded() -> None:
    with pytest.raises(WireError, match="at most"):
        protocol.orders().feed(struct.pack(">I", protocol.MAX_FRAME_BYTES + 1))
