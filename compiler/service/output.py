"""The output folder: written beside its place, then moved there whole.

Rules:
- A folder that holds anything but an earlier output is never replaced.
- Whoever looks sees the earlier output or the new one, never a part of either.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from compiler.errors import OutputError

REPORT: Final = "report.json"
PAGE: Final = "report.html"


def check(out: Path) -> None:
    """Refuse early what could not be written in the end.

    Raises:
        OutputError: the place is taken by something else, or cannot be written.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise OutputError(
            f"{out}: expected a folder or nothing, found a file; choose another place"
        )
    if out.is_dir() and any(out.iterdir()) and not (out / REPORT).is_file():
        raise OutputError(
            f"{out}: expected an empty folder or an earlier output, found other files; choose another place"
        )
    try:
        out.resolve().parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(out.resolve().parent, os.W_OK)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from None
    if not writable:
        raise OutputError(f"{out}: expected a place that can be written, found none")


@contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A work folder on the same file system; removed in the end."""
    parent = out.resolve().parent
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write(out: Path, files: Mapping[str, bytes], *, work: Path) -> None:
    """Put files into place as the whole output folder.

    Args:
        out: the folder.
        files: by name.
        work: from `beside`.
    """
    fresh, old = work / "fresh", work / "old"
    fresh.mkdir()
    for name, data in files.items():
        with (fresh / name).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    place = out.resolve()
    try:
        if place.exists():
            place.replace(old)
        fresh.replace(place)
    except OSError as error:
        if old.exists() and not place.exists():
            old.replace(place)
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from None
