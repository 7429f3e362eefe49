"""The one module through which the daemon's state touches the file system.

Rules:
- A small file is replaced whole: written beside, synced, renamed, and the folder synced. A power cut
  leaves the old one or the new one.
- A small file carries a checksum, and the one before it is kept: damage is found, and mended from that.
- Every failure of the system is raised as `DiskError`, `DiskFullError` or `DamagedError`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from agent.errors import DamagedError, DiskError, DiskFullError, RunningError

_MAGIC: Final = b"outrider-state/1 "
_BEFORE: Final = ".before"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_CHUNK: Final = 1 << 20


@contextlib.contextmanager
def _ours(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in _FULL else DiskError
        raise kind(f"{path}: {error.strerror or error}") from None


def make_dir(path: Path) -> None:
    """Make a folder that only its owner can read, with those above it."""
    with _ours(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace a file whole and durably."""
    beside = path.with_name(path.name + ".new")
    with _ours(path):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(path)
        _sync_dir(path.parent)


def write_checked(path: Path, body: bytes) -> None:
    """Replace a checksummed file; the one before it is kept beside it."""
    before = path.with_name(path.name + _BEFORE)
    with _ours(path):
        if path.exists():
            before.unlink(missing_ok=True)
            os.link(path, before)
    digest = hashlib.sha256(body).hexdigest().encode()
    write_atomic(path, _MAGIC + digest + b"\n" + body)


def read_checked(path: Path) -> tuple[bytes, str] | None:
    """The body of a checksummed file, and what had to be mended (empty: nothing).

    Returns:
        None when neither the file nor the one before it is there.

    Raises:
        DamagedError: neither holds what was written.
        DiskError: they cannot be read.
    """
    before = path.with_name(path.name + _BEFORE)
    try:
        body = _read_checked(path)
        if body is not None:
            return body, ""
        problem = f"{path} was missing"
    except DamagedError as error:
        problem = str(error)
    kept = _read_checked(before)
    if kept is not None:
        return kept, f"{problem}; the one before it was taken"
    if path.exists():
        raise DamagedError(f"{problem}, and nothing was kept from before")
    return None


def _read_checked(path: Path) -> bytes | None:
    with _ours(path):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    head, _, body = data.partition(b"\n")
    digest = hashlib.sha256(body).hexdigest().encode()
    if head != _MAGIC + digest:
        raise DamagedError(
            f"{path}: expected a checksum of {digest.decode()[:12]} over its {len(body)} bytes, "
            f"found {head[:80]!r}; it is damaged"
        )
    return body


def read(path: Path) -> bytes | None:
    """A whole file; None when it is not there."""
    with _ours(path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def reserve(path: Path, size: int, *, margin: int) -> None:
    """Make sure that a file of `size` bytes fits, with `margin` bytes left over.

    Raises:
        DiskFullError: it does not.
    """
    with _ours(path):
        free = shutil.disk_usage(path.parent).free
        there = path.stat().st_blocks * 512 if path.exists() else 0
        if free + there < size + margin:
            raise DiskFullError(
                f"{path.parent}: expected {size + margin - there} free bytes, found {free}; make room"
            )
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            if size:
                os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)


class Part:
    """A file that is there already, written here and there; it stays open. Durable after `sync`.

    Args:
        path: of the file.

    Raises:
        DiskError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _ours(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes at an offset. Raises DiskError."""
        with _ours(self.path):
            view = memoryview(data)
            while view:
                written = os.pwrite(self._descriptor, view, offset)
                view, offset = view[written:], offset + written

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


def sync(path: Path) -> None:
    """Make what was written to a file durable."""
    with _ours(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def move(source: Path, destination: Path) -> None:
    """Rename durably, replacing what is there."""
    with _ours(destination):
        destination.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        source.replace(destination)
        _sync_dir(destination.parent)
        _sync_dir(source.parent)


def delete(path: Path) -> None:
    """Delete a file where it is there."""
    with _ours(path):
        path.unlink(missing_ok=True)


def names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none when it is not there."""
    with _ours(folder):
        try:
            return sorted(entry.name for entry in folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def sha256_of(path: Path) -> tuple[str, int] | None:
    """Digest and length of a file; None when it is not there."""
    digest, length = hashlib.sha256(), 0
    with _ours(path):
        try:
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                    length += len(chunk)
        except FileNotFoundError:
            return None
    return digest.hexdigest(), length


@contextlib.contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """A file, opened for reading.

    Raises:
        DiskError: it is not there, or cannot be read.
    """
    with _ours(path), path.open("rb") as file:
        yield file


def size(path: Path) -> int | None:
    """Length of a file; None when it is not there."""
    with _ours(path):
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return None


def free_bytes(folder: Path) -> int:
    """Room that is left on the folder's disk."""
    with _ours(folder):
        return shutil.disk_usage(folder).free


def lock(path: Path) -> int:
    """Take a lock that ends with the process; returns the descriptor that holds it.

    A disk that became read-only still has the file of before, and that can be locked.

    Raises:
        RunningError: another process holds it.
    """
    with _ours(path):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunningError(
                f"{path.parent}: expected no other daemon on this state directory, found one; stop it first"
            ) from None
        return descriptor


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_dir(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
