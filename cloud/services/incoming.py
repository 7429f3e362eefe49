"""Files that workers send before they hand in: kept apart, by attempt, until the hand-in or the unit's end.

Rules:
- A file gets its name, the digest of its bytes, only when it is whole; nothing else is ever read.
- What belongs to a unit that has ended is removed at the next start, or when the unit is handed in.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloud.broker import work_names
from cloud.context import Context
from cloud.errors import InputError
from cloud.work.messages import Attempt

MAX_ARTIFACT_BYTES = 4 << 30
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@contextmanager
def place(context: Context, unit: str) -> Iterator[Path]:
    """A new file to receive into; removed in the end unless it was kept."""
    folder = _folder(context, unit)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def keep(context: Context, at: Attempt, received: Path) -> str:
    """Keep a received file for an attempt; returns its SHA-256."""
    with received.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    received.replace(_file(_folder(context, at.unit), at, digest))
    return digest


def files(context: Context, at: Attempt, digests: list[str]) -> list[Path]:
    """The files that an attempt has sent. Raises InputError."""
    folder = _folder(context, at.unit)
    found = []
    for digest in digests:
        if not _DIGEST.match(digest) or not _file(folder, at, digest).is_file():
            raise InputError(
                f"expected an artifact that was sent before, found {digest!r}; send it"
            )
        found.append(_file(folder, at, digest))
    return found


def remove(context: Context, unit: str) -> None:
    """Forget what was sent for a unit."""
    shutil.rmtree(_folder(context, unit), ignore_errors=True)


def remove_all(context: Context) -> None:
    """Forget everything that was sent and not handed in; workers send it again."""
    shutil.rmtree(context.settings.path("work", "incoming"), ignore_errors=True)


def _folder(context: Context, unit: str) -> Path:
    return context.settings.path("work", "incoming", work_names.check(unit))


def _file(folder: Path, at: Attempt, digest: str) -> Path:
    return folder / f"{at.number}-{digest}"
