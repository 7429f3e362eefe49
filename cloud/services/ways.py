"""Less to send: what leads from an artifact that devices hold to the next one, built once and measured.

Rules:
- For each variant of a release: the compressed file, the list of its chunks, and from each of the `BASES` releases
  before it a delta. All are blobs; a device is told of those that cost less than the file, cheapest first.
- Costs are what is sent in all: the blob, its block list, and for chunks the blocks that a device would still lack.
- Nothing waits for them: an assignment that is signed before they are built leads to the chunks or the whole file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import NamedTuple

from sqlmodel import Session

from cloud.blobs import BlobStore
from cloud.context import Context
from fleet.artifact import package
from fleet.errors import OutriderError
from fleet.registry.repositories import Models, Ways
from fleet.registry.tables import Artifact, Way
from ota.delta import build, chunks
from ota.delta.apply import Read
from ota.metadata import release as metadata
from ota.transfer import blocks

BASES = 2
OFFERED = 3
WORTH = 0.95
"""A way is offered when it costs at most this share of the file."""
MAX_DELTA_BYTES = 1 << 30
MAX_SEARCH_BYTES = 64 << 20
"""Longer files are compared member by member only: a search takes memory of twenty times the file, and minutes."""
log = logging.getLogger(__name__)


class Pair(NamedTuple):
    """An artifact that devices may hold (empty: none), and one that they may be given."""

    base: str
    result: str


def build_next(context: Context) -> Pair | None:
    """Build the ways of one pair that has none yet; None when there is none that can be built."""
    with context.read() as session:
        pairs = list(_lacking(session))
    for pair in pairs:
        with context.read() as session:
            row = Models(session).find_artifact(pair.result)
        try:
            rows = _built(context.blobs, pair, row, now=context.clock()) if row else []
        except OutriderError:  # a blob that is missing: the other pairs go on
            log.exception("no way from %s to %s", pair.base[:12], pair.result[:12])
            continue
        with context.unit() as unit:
            Ways(unit.session).put(rows)
        return pair
    return None


def offered(session: Session, result: Artifact, held: str) -> list[metadata.Way]:
    """What a device that holds the artifact `held` (empty: none) is told of the ways to `result`."""
    ways = Ways(session)
    rows = [row for row in ways.to(result.sha256, {"", held}) if row.kind == "delta" or row.base]
    if held and held != result.sha256 and not ways.has(result.sha256, held):
        rows = [row for row in ways.to(result.sha256, {""}) if row.kind == "chunks"] + rows
    most = result.size_bytes * WORTH
    unmeasured = {row.sha256 for row in rows if row.kind == "chunks" and not row.base}
    worth = [row for row in rows if row.cost_bytes <= most or row.sha256 in unmeasured]
    return [_signed(row) for row in worth[:OFFERED]]


def _signed(row: Way) -> metadata.Way:
    return metadata.Way(
        kind="delta" if row.kind == "delta" else "chunks",
        base=row.base if row.kind == "delta" else "",
        sha256=row.sha256,
        length=row.length_bytes,
        blocks=metadata.Blocks(
            sha256=row.blocks_sha256,
            length=row.blocks_length_bytes,
            block_size=row.block_size_bytes,
        ),
    )


def _lacking(session: Session) -> Iterator[Pair]:
    """Pairs that no way was built for, newest releases first."""
    models, ways = Models(session), Ways(session)
    releases = models.releases()
    for release in releases:
        before = [r.id for r in releases if r.model == release.model]
        before = before[before.index(release.id) + 1 :][:BASES]
        for variant, artifact in models.variants(release.id):
            bases = [""]
            for earlier in before:
                bases += [
                    old.sha256
                    for place, old in models.variants(earlier)
                    if (place.target, place.variant) == (variant.target, variant.variant)
                    and old.sha256 != artifact.sha256
                ]
            for base in bases:
                if not ways.has(artifact.sha256, base):
                    yield Pair(base, artifact.sha256)


def _built(blobs: BlobStore, pair: Pair, artifact: Artifact, *, now: float) -> list[Way]:
    new = blobs.read(pair.result)
    average = chunks.average_for(len(new))
    listed = chunks.write_list(
        chunks.cut(_reader(new), len(new), average_bytes=average),
        length_bytes=len(new),
        average_bytes=average,
    )
    old = blobs.read(pair.base) if pair.base else b""
    missing = _missing_bytes(old, new, listed, artifact.block_size_bytes)
    rows = [
        _row(blobs, pair, "chunks", listed, rest=missing + artifact.blocks_length_bytes, now=now)
    ]
    delta = _delta(old, new, pair) if max(len(old), len(new)) <= MAX_DELTA_BYTES else b""
    if delta:
        rest = artifact.blocks_length_bytes
        rows.append(_row(blobs, pair, "delta", delta, rest=rest, now=now))
    return rows


def _delta(old: bytes, new: bytes, pair: Pair) -> bytes:
    """The delta of a pair; empty where none could be made (it is told, and tried no more)."""
    try:
        if not pair.base:
            return build.compressed(new)
        find = search if max(len(old), len(new)) <= MAX_SEARCH_BYTES else None
        return build.between(
            old, new, old_spans=package.spans(old), new_spans=package.spans(new), search=find
        )
    except OutriderError:
        log.exception("no delta from %s to %s", pair.base[:12], pair.result[:12])
        return b""


def search(old: bytes, new: bytes) -> bytes:
    """Bsdiff's control block: where the new file's pieces have their likes in the old one."""
    from bsdiff4 import core  # a C extension that this alone needs

    control: bytes = core.diff(old, new)[0]
    return control


def _missing_bytes(old: bytes, new: bytes, listed: bytes, block_size: int) -> int:
    """What a device that holds `old` would still fetch of `new` after its chunks."""
    wanted = chunks.parse_list(listed)
    held = chunks.held(wanted, [(_reader(old), len(old))])
    bitmap = chunks.covered(held, length_bytes=len(new), block_size_bytes=block_size)
    return sum(min(block_size, len(new) - index * block_size) for index in bitmap.missing())


def _row(blobs: BlobStore, pair: Pair, kind: str, data: bytes, *, rest: int, now: float) -> Way:
    size = blocks.choose_block_size(len(data))
    listed = blocks.block_list(data, size)
    return Way(
        result=pair.result,
        base=pair.base,
        kind=kind,
        sha256=blobs.put(data),
        length_bytes=len(data),
        blocks_sha256=blobs.put(listed),
        blocks_length_bytes=len(listed),
        block_size_bytes=size,
        cost_bytes=len(data) + len(listed) + rest,
        created_at=now,
    )


def _reader(data: bytes) -> Read:
    return lambda offset, length: data[offset : offset + length]
