"""The content-addressed store: blobs by the SHA-256 of their bytes.

Rules:
- A blob appears under its name only when it is whole and on the disk (write, fsync, rename).
- The same bytes are stored once; nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import BinaryIO, Protocol

from cloud.errors import BlobMissingError

_CHUNK = 1 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class BlobStore(Protocol):
    """Where blobs are kept."""

    def put(self, data: bytes) -> str:
        """Store bytes; returns their SHA-256, lower-case hex."""

    def put_file(self, source: Path) -> str:
        """Store a file's bytes; returns their SHA-256."""

    def has(self, sha256: str) -> bool:
        """Whether the blob is there."""

    def size(self, sha256: str) -> int:
        """Its length in bytes. Raises BlobMissingError."""

    def read(self, sha256: str, offset: int = 0, length: int | None = None) -> bytes:
        """Its bytes from `offset`, at most `length` of them. Raises BlobMissingError."""

    def path(self, sha256: str) -> Path:
        """A file that holds it, for programs that want one. Raises BlobMissingError."""


class LocalBlobs:
    """Blobs in a folder, two levels deep."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store bytes; returns their SHA-256."""
        return self._store(io.BytesIO(data))

    def put_file(self, source: Path) -> str:
        """Store a file's bytes; returns their SHA-256."""
        with source.open("rb") as file:
            return self._store(file)

    def has(self, sha256: str) -> bool:
        """Whether the blob is there."""
        return bool(_DIGEST.match(sha256)) and self._file(sha256).exists()

    def size(self, sha256: str) -> int:
        """Its length in bytes."""
        return self.path(sha256).stat().st_size

    def read(self, sha256: str, offset: int = 0, length: int | None = None) -> bytes:
        """Its bytes from `offset`, at most `length` of them."""
        with self.path(sha256).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def path(self, sha256: str) -> Path:
        """The blob's file."""
        if not self.has(sha256):
            raise BlobMissingError(
                f"expected a blob {sha256!r} in {self.root}, found none; restore it from a backup"
            )
        return self._file(sha256)

    def _store(self, source: BinaryIO) -> str:
        digest = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=self.root, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            final = self._file(digest.hexdigest())
            final.parent.mkdir(exist_ok=True)
            Path(name).replace(final)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(final.parent)
        return final.name

    def _file(self, sha256: str) -> Path:
        return self.root / sha256[:2] / sha256


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
