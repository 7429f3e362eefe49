"""Merging buffered windows: fewer rows, the same counts."""

from __future__ import annotations

from collections.abc import Sequence

from agent.core.events import Row
from fleet.errors import OutriderError
from fleet.telemetry import merge as windows
from fleet.telemetry.window import Window
from fleet.wire import codec


def merge(rows: Sequence[Row]) -> list[Row]:
    """Rows that hold the same counts in one window per artifact.

    A merged row has the key and the position of its earliest part. A row whose window cannot be read
    or merged stays as it is.

    Args:
        rows: telemetry rows that were never sent.
    """
    merged: dict[tuple[str, str, str], tuple[Row, Window]] = {}
    kept = []
    for row in rows:
        try:
            window = codec.from_msgpack(Window, row.payload)
            subject = (window.model, window.release, window.sha256)
            before = merged.get(subject)
            if before is None:
                merged[subject] = (row, window)
                continue
            both = windows.merge(before[1], window)
        except OutriderError:
            kept.append(row)
            continue
        first = before[0] if (both.boot_epoch, both.seq) == _key(before[0]) else row
        merged[subject] = (first, both)
    done = [
        Row(
            position=row.position,
            boot_epoch=row.boot_epoch,
            seq=row.seq,
            kind=row.kind,
            payload=codec.to_msgpack(window),
        )
        for row, window in merged.values()
    ]
    return sorted(kept + done, key=lambda row: row.position)


def _key(row: Row) -> tuple[str, int]:
    return (row.boot_epoch, row.seq)
