"""Building deltas, in the cloud: the shortest of several, each proved by applying it.

Rules:
- Nothing is handed out that has not made the new file from the old one here.
- How elements are laid out is chosen per frame, by what an entropy coder would make of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from ota.delta import apply, plan, streams
from ota.delta import format as form
from ota.delta.format import Frame, Header, Operation
from ota.delta.plan import Part, Spans
from ota.delta.streams import WIDTHS, Bytes, Stream
from ota.errors import DeltaError

Search = Callable[[bytes, bytes], bytes]
"""bsdiff's search: the control block for (old, new)."""

_SAMPLE_BYTES: Final = 1 << 17
_NEAR: Final = 1.05


def compressed(new: bytes) -> bytes:
    """The delta that needs no base: the file, compressed."""
    return _proved(None, new, [plan.inserted(len(new))])


def between(
    old: bytes, new: bytes, *, old_spans: Spans, new_spans: Spans, search: Search | None = None
) -> bytes:
    """The shortest delta from one file to another.

    Args:
        old: the file that is there.
        new: the file that is wanted.
        old_spans: where the old file's members lie; empty for one that is no archive.
        new_spans: likewise for the new one.
        search: finds likenesses anywhere; None where that would cost too much.
    """
    left, right = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    whole = {"": (0, len(old))}, {"": (0, len(new))}
    spans = (old_spans, new_spans) if old_spans and new_spans else whole
    plans = [plan.by_members(left, right, *spans)]
    if search is not None:
        plans.append(plan.by_search(search(old, new), len(new)))
    return _proved(old, new, plans)


def _proved(old: bytes | None, new: bytes, plans: list[list[Part]]) -> bytes:
    base_sha256 = hashlib.sha256(old).hexdigest() if old is not None else form.NO_BASE
    header = Header(
        base_sha256=base_sha256, length_bytes=len(new), sha256=hashlib.sha256(new).hexdigest()
    )
    left, right = np.frombuffer(old or b"", np.uint8), np.frombuffer(new, np.uint8)
    found = [b"".join(_written(header, left, right, parts)) for parts in plans]
    delta = min(found, key=len)
    base = old or b""
    pieces = apply.apply(
        io.BytesIO(delta),
        lambda offset, length: base[offset : offset + length],
        base_sha256=base_sha256,
        sha256=header.sha256,
        length_bytes=len(new),
    )
    if b"".join(pieces) != new:
        raise DeltaError("expected a delta that makes the new file, found another one; report this")
    return delta


def _written(header: Header, old: Bytes, new: Bytes, parts: list[Part]) -> Iterator[bytes]:
    yield form.write_header(header)
    position = 0
    frames = list(_frames(parts))
    for number, frame in enumerate(frames):
        after = _next_place(frames[number + 1 :])
        operations, position = _operations(frame, position, after)
        yield form.write_frame(_frame(old, new, frame, operations))


def _frames(parts: list[Part]) -> Iterator[list[Part]]:
    """Parts cut and grouped so that each group makes one frame."""
    frame: list[Part] = []
    room = form.MAX_FRAME_BYTES
    for part in parts:
        left = part
        while left.length:
            size = min(left.length, room)
            frame.append(left._replace(length=size))
            old = None if left.old is None else left.old + size
            left = Part(left.at + size, left.length - size, old)
            room -= size
            if not room:
                yield frame
                frame, room = [], form.MAX_FRAME_BYTES
    if frame:
        yield frame


def _next_place(frames: list[list[Part]]) -> int | None:
    """Where the next bytes of the old file are taken from."""
    return next((p.old for frame in frames[:2] for p in frame if p.old is not None), None)


def _operations(frame: list[Part], position: int, after: int | None) -> tuple[list[Operation], int]:
    """The frame's operations, from `position` in the old file on; and where they leave it."""
    pairs: list[tuple[Part | None, int]] = []  # an addition, and what is inserted behind it
    first = next((p.old for p in frame if p.old is not None), after)
    if first is not None and first != position:
        pairs.append((None, 0))
    for part in frame:
        if part.old is not None:
            pairs.append((part, 0))
        elif pairs:
            pairs[-1] = (pairs[-1][0], pairs[-1][1] + part.length)
        else:
            pairs.append((None, part.length))
    operations = []
    places = [part.old for part, _ in pairs[1:] if part is not None]
    for (added, insert), target in zip(pairs, [*places, after], strict=True):
        add = added.length if added else 0
        position += add
        seek = target - position if target is not None else 0
        operations.append(Operation(add, insert, seek))
        position += seek
    return operations, position


def _frame(old: Bytes, new: Bytes, parts: list[Part], operations: list[Operation]) -> Frame:
    likes = [p for p in parts if p.old is not None]
    mine = _together([new[p.at : p.at + p.length] for p in likes])
    its = _together([old[p.old : p.old + p.length] for p in likes if p.old is not None])
    rest = _together([new[p.at : p.at + p.length] for p in parts if p.old is None])
    return Frame(
        length_bytes=len(mine) + len(rest),
        operations=streams.encode(np.frombuffer(form.write_operations(operations), np.uint8)),
        differences=_differences(mine, its),
        insertions=_shortest(rest, lambda _width, _phase: rest),
    )


def _differences(mine: Bytes, its: Bytes) -> Stream:
    return _shortest(
        mine, lambda width, phase: streams.difference(mine, its, width=width, phase=phase)
    )


def _shortest(data: Bytes, of: Callable[[int, int], Bytes]) -> Stream:
    """The shortest stream among layouts: the best by estimate, and plain bytes where they come near."""
    if not len(data):
        return streams.encode(data)
    layouts = [(width, phase) for width in WIDTHS for phase in range(width)]
    estimates = {layout: _estimate(of(*layout), *layout) for layout in layouts}
    best = min(layouts, key=lambda layout: estimates[layout])
    near = {best} | ({(1, 0)} if estimates[1, 0] < estimates[best] * _NEAR else set())
    tried = [streams.encode(of(*layout), width=layout[0], phase=layout[1]) for layout in near]
    return min(tried, key=lambda stream: (len(stream.coded), stream.width, stream.phase))


def _estimate(data: Bytes, width: int, phase: int) -> float:
    """Bits per byte by the distribution of each byte of an element."""
    sample = data[phase:][:_SAMPLE_BYTES]
    total = 0.0
    for lane in range(width):
        counts = np.bincount(sample[lane::width], minlength=256)
        seen = counts[counts > 0]
        total += float(seen.sum() * np.log2(max(1, seen.sum())) - (seen * np.log2(seen)).sum())
    return total / max(1, len(sample))


def _together(pieces: list[Bytes]) -> Bytes:
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint8)
