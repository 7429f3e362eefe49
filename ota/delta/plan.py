"""Where the bytes of a new file have their likes in an old one: what a delta is built from.

Rules:
- A plan covers the new file from its first byte to its last, in order; each part has a place in the old file, or none.
- Two plans are made and the caller keeps the shorter delta: by members (a payload lies against the payload of the
  same name, byte for byte: weights that all moved a little have no bytes in common, and are still alike), and by
  bsdiff's search (moved and inserted pieces).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from ota.delta.streams import Bytes

PIECE_BYTES: Final = 4_096
_LANES = 4
_MARGIN = 0.02
_TRIPLE_BYTES = 24

Spans = Mapping[str, tuple[int, int]]
"""Offset and length of each member's content as it lies in a file."""


class Part(NamedTuple):
    """Bytes of the new file.

    Attributes:
        at: where they begin.
        length: how many they are.
        old: where their like begins in the old file; None: nowhere.
    """

    at: int
    length: int
    old: int | None


def inserted(length: int) -> list[Part]:
    """The plan of a file that has nothing in common with another."""
    return [Part(0, length, None)] if length else []


def by_members(old: Bytes, new: Bytes, old_spans: Spans, new_spans: Spans) -> list[Part]:
    """The plan that lays members of the same name against each other, where that is of use."""
    parts: list[Part] = []
    at = 0
    for name, (start, length) in sorted(new_spans.items(), key=lambda item: item[1]):
        if start < at:
            continue  # members that overlap are no artifact's
        parts.append(Part(at, start - at, None))
        place, held = old_spans.get(name, (0, 0))
        alike = min(length, held)
        parts += _useful(old, new, Part(start, alike, place))
        parts.append(Part(start + alike, length - alike, None))
        at = start + length
    parts.append(Part(at, len(new) - at, None))
    return _joined(parts)


def by_search(control: bytes, length: int) -> list[Part]:
    """The plan that bsdiff's control block describes: triples of add, insert and seek, 8 bytes each, sign in the top bit."""
    numbers = np.frombuffer(control[: len(control) // _TRIPLE_BYTES * _TRIPLE_BYTES], "<u8")
    size = (numbers & np.uint64(2**63 - 1)).astype(np.int64)
    signed = np.where(numbers >> np.uint64(63), -size, size).reshape(-1, 3)
    parts: list[Part] = []
    at = old = 0
    for add, insert, seek in signed.tolist():
        parts += [Part(at, add, old), Part(at + add, insert, None)]
        at, old = at + add + insert, old + add + seek
    parts.append(Part(at, length - at, None))
    return _joined(parts)


def _useful(old: Bytes, new: Bytes, part: Part) -> list[Part]:
    """The part, without its like wherever differences are no shorter than the bytes themselves."""
    found: list[Part] = []
    for done in range(0, part.length, PIECE_BYTES):
        size = min(PIECE_BYTES, part.length - done)
        at, place = part.at + done, (part.old or 0) + done
        mine, its = new[at : at + size], old[place : place + size]
        differs = _bits(mine - its) < _bits(mine) * (1 - _MARGIN)
        found.append(Part(at, size, place if differs or np.array_equal(mine, its) else None))
    return found


def _bits(data: Bytes) -> float:
    """About how many bits an entropy coder makes of `data`, every fourth byte by itself (floats have quiet bytes)."""
    total = 0.0
    for lane in range(_LANES):
        counts = np.bincount(data[lane::_LANES], minlength=256)
        seen = counts[counts > 0]
        total += float(seen.sum() * np.log2(max(1, seen.sum())) - (seen * np.log2(seen)).sum())
    return total


def _joined(parts: list[Part]) -> list[Part]:
    """Neighbours that go on where the other ends as one; empty parts left out."""
    joined: list[Part] = []
    for part in parts:
        if part.length <= 0:
            continue
        last = joined[-1] if joined else None
        goes_on = last is not None and (
            part.old is None
            if last.old is None
            else part.old is not None and part.old == last.old + last.length
        )
        if last is not None and goes_on:
            joined[-1] = last._replace(length=last.length + part.length)
        else:
            joined.append(part)
    return joined
