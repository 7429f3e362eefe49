"""Deltas: any two files, and any damage."""

import contextlib
import hashlib
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ota.delta import build, streams
from ota.delta import format as form
from ota.delta.apply import apply
from ota.delta.format import Frame, Header, Operation
from ota.delta.streams import Stream
from ota.errors import DeltaError

pytestmark = pytest.mark.agent

MANY = settings(max_examples=200, deadline=None)
NUMBERS = st.integers(0, 2**32).map(np.random.default_rng)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rebuilt(delta: bytes, old: bytes | None, new: bytes) -> bytes:
    base = old or b""
    pieces = apply(
        io.BytesIO(delta),
        lambda at, length: base[at : at + length],
        base_sha256=sha256(old) if old is not None else "",
        sha256=sha256(new),
        length_bytes=len(new),
    )
    return b"".join(pieces)


@st.composite
def relatives(draw) -> tuple[bytes, bytes]:
    """Two files: one made of the other by moving, changing, inserting and leaving out."""
    rng = draw(NUMBERS)
    old = rng.integers(0, 256, draw(st.integers(0, 20_000)), np.uint8)
    new = []
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["copy", "near", "floats", "fresh"]))
        at = draw(st.integers(0, max(0, len(old) - 1)))
        piece = old[at : at + draw(st.integers(0, 9_000))]
        if kind == "near":
            piece = piece + rng.integers(0, 3, len(piece), np.uint8)
        elif kind == "floats":
            values = piece[: len(piece) // 4 * 4].view("<u4")
            piece = (values + rng.integers(0, 9, len(values), np.uint32)).view(np.uint8)
        elif kind == "fresh":
            piece = rng.integers(0, 256, len(piece), np.uint8)
        new.append(piece)
    return old.tobytes(), b"".join(piece.tobytes() for piece in new)


@given(relatives())
@MANY
def test_any_file_is_made_from_any_other(pair):
    old, new = pair
    delta = build.between(old, new, old_spans={}, new_spans={})
    assert rebuilt(delta, old, new) == new


@given(st.binary(max_size=5_000), st.binary(max_size=5_000))
@example(b"", b"")
@example(b"", b"x")
@example(b"x", b"")
@MANY
def test_bytes_of_no_kind_are_made_too(old, new):
    assert rebuilt(build.between(old, new, old_spans={}, new_spans={}), old, new) == new
    assert rebuilt(build.compressed(new), None, new) == new


@pytest.mark.parametrize("dtype", ["<f4", "<f2", "i1"])
def test_weights_that_all_moved_a_little_are_short(dtype):
    rng = np.random.default_rng(2)
    weights = rng.normal(0, 40, 400_000)
    old = weights.astype(dtype).tobytes()
    new = (weights + rng.normal(0, 0.4, len(weights))).astype(dtype).tobytes()
    delta = build.between(old, new, old_spans={}, new_spans={})
    assert rebuilt(delta, old, new) == new
    assert len(delta) < {"<f4": 0.75, "<f2": 0.65, "i1": 0.25}[dtype] * len(new)


def test_members_lie_against_members_of_the_same_name():
    rng = np.random.default_rng(3)
    weights = rng.integers(-100, 100, 50_000).astype("i1")
    moved = (weights + rng.integers(-1, 2, len(weights))).astype("i1")
    old = b"short" + weights.tobytes()
    new = b"a longer head" + moved.tobytes()
    delta = build.between(old, new, old_spans={"w": (5, 50_000)}, new_spans={"w": (13, 50_000)})
    assert rebuilt(delta, old, new) == new
    assert len(delta) < 0.25 * len(new)


RNG = np.random.default_rng(4)
OLD = RNG.integers(0, 256, 6_000, np.uint8).tobytes()
NEW = OLD[1_000:4_000] + b"new words" * 30 + OLD[:900] + bytes(b ^ 1 for b in OLD[4_000:])
DELTA = build.between(
    OLD,
    NEW,
    old_spans={"a": (0, 900), "b": (1_000, 5_000)},
    new_spans={"b": (0, 3_000), "a": (3_270, 900)},
)


@given(st.data())
@settings(max_examples=600, deadline=None)
def test_damage_is_an_error_of_ours_or_the_signed_bytes(data):
    damaged = bytearray(DELTA)
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "splice"]))
    at = data.draw(st.integers(0, len(DELTA) - 1))
    if kind == "flip":
        damaged[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "grow":
        damaged += data.draw(st.binary(min_size=1, max_size=40))
    else:
        other = data.draw(st.integers(0, len(DELTA) - 1))
        damaged[at:at] = DELTA[other : other + data.draw(st.integers(1, 60))]
    with contextlib.suppress(DeltaError):
        assert rebuilt(bytes(damaged), OLD, NEW) == NEW


@given(st.binary(max_size=2_000))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_refused(data):
    head = form.write_header(
        Header(base_sha256=sha256(OLD), length_bytes=len(NEW), sha256=sha256(NEW))
    )
    for delta in (data, head + data):
        with pytest.raises(DeltaError):
            rebuilt(delta, OLD, NEW)


def test_the_wrong_base_and_a_shortened_one_are_refused():
    with pytest.raises(DeltaError, match="expected a delta from"):
        rebuilt(DELTA, OLD[::-1], NEW)
    with pytest.raises(DeltaError):
        b"".join(
            apply(
                io.BytesIO(DELTA), lambda at, length: OLD[:2_000][at : at + length],
                base_sha256=sha256(OLD), sha256=sha256(NEW), length_bytes=len(NEW),
            )
        )  # fmt: skip


def test_a_base_with_other_bytes_never_makes_a_file():
    with pytest.raises(DeltaError, match="expected a result with sha256"):
        b"".join(
            apply(
                io.BytesIO(DELTA), lambda at, length: OLD[::-1][at : at + length],
                base_sha256=sha256(OLD), sha256=sha256(NEW), length_bytes=len(NEW),
            )
        )  # fmt: skip


def bomb(codec: int, coded: bytes, plain: int) -> bytes:
    """A delta whose one frame's insertions inflate far beyond what it says."""
    empty = streams.encode(np.empty(0, np.uint8))
    operations = form.write_operations([Operation(0, plain, 0)])
    frame = Frame(
        plain,
        streams.encode(np.frombuffer(operations, np.uint8)),
        empty,
        Stream(codec=codec, width=1, phase=0, plain_bytes=plain, coded=coded),
    )
    head = form.write_header(Header(base_sha256="", length_bytes=plain, sha256="00" * 32))
    return head + form.write_frame(frame)


@pytest.mark.parametrize("codec", [2, 3, 4, 5])
def test_a_bomb_goes_off_in_bounded_memory(codec):
    import bz2
    import lzma
    import zlib

    huge = bytes(64 << 20)
    if codec == 2:
        pack = zlib.compressobj(9, zlib.DEFLATED, -15)
        coded = pack.compress(huge) + pack.flush()
    elif codec == 3:
        coded = bz2.compress(huge)
    else:
        coded = lzma.compress(huge, lzma.FORMAT_RAW, filters=streams._FILTERS[codec])
    delta = bomb(codec, coded, 1_000)
    del huge
    tracemalloc.start()
    with pytest.raises(DeltaError):
        b"".join(
            apply(io.BytesIO(delta), None, base_sha256="", sha256="00" * 32, length_bytes=1_000)
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_memory_is_bounded_by_frames():
    new = np.random.default_rng(5).integers(0, 4, 24 << 20, np.uint8)
    old = new.tobytes()
    new[::5000] += 1
    wanted = new.tobytes()
    delta = build.between(old, wanted, old_spans={}, new_spans={})
    digest, wanted_sha256 = hashlib.sha256(), sha256(wanted)
    base, base_sha256 = io.BytesIO(old), sha256(old)

    def read(at: int, length: int) -> bytes:
        base.seek(at)
        return base.read(length)

    tracemalloc.start()
    for piece in apply(
        io.BytesIO(delta),
        read,
        base_sha256=base_sha256,
        sha256=wanted_sha256,
        length_bytes=len(wanted),
    ):
        digest.update(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digest.hexdigest() == wanted_sha256
    assert peak < 16 << 20
    assert len(delta) < 60_000
