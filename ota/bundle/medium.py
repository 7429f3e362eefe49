"""A folder on a medium: metadata and blobs on their way to devices, messages of devices on their way back.

    outrider-bundle            the format's name
    blobs/SHA256               artifacts, block lists, deltas, lists of chunks
    devices/D/desired          the sealed `Desired` of device D
    devices/D/acks/NAME        sealed `Ack`s, written when messages were read in the cloud
    reports/D/NUMBER-KIND-ID   sealed messages of device D, in the order in which it wrote them

Rules:
- Nothing on a medium is believed. Whoever reads verifies as if it had come over the network; what is here only keeps
  a medium from doing harm to the reader's own machine.
- No link is followed, no device node, socket or pipe is opened, names are checked, and reading is bounded.
- A file is there whole or not at all; what is there already is not written again.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fleet.wire.topics import check_id
from ota.errors import BundleError

FORMAT: Final = b"outrider/bundle/1\n"
MARK: Final = "outrider-bundle"
MAX_NAMES: Final = 100_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PIECE_BYTES: Final = 1 << 20


class Medium:
    """A bundle's folder.

    Args:
        root: the folder on the medium.
        create: make it a bundle where it is none yet.

    Raises:
        BundleError: it is none, or cannot be read or written.
    """

    def __init__(self, root: Path, *, create: bool = False) -> None:
        self.root = root
        if create:
            with _ours(root):
                root.mkdir(parents=True, exist_ok=True)
            if not self.has((MARK,)):
                self.write((MARK,), FORMAT)
        found = self.read((MARK,), limit=len(FORMAT))
        if found != FORMAT:
            raise BundleError(
                f"{root}: expected a bundle ({FORMAT.decode().strip()}), found "
                f"{'another format; update this program' if found else 'none; mount the medium, or make one: outrider bundle export'}"
            )

    def names(self, parts: tuple[str, ...]) -> list[str]:
        """Names in a folder, sorted; none where it is not there; names that nobody here gives are left out."""
        with _ours(self.root):
            try:
                with self._folder(parts) as folder:
                    listed = os.listdir(folder)  # noqa: PTH208 - of a descriptor, so that no link is followed
                    found = sorted(name for name in listed if _NAME.match(name))
            except FileNotFoundError:
                return []
        return found[:MAX_NAMES]

    def has(self, parts: tuple[str, ...]) -> bool:
        """Whether a file is there."""
        with _ours(self.root):
            try:
                with self._file(parts):
                    return True
            except FileNotFoundError:
                return False

    def read(self, parts: tuple[str, ...], *, limit: int) -> bytes | None:
        """A file's bytes; None where it is not there.

        Raises:
            BundleError: it is longer than `limit`, or no plain file.
        """
        with _ours(self.root):
            try:
                with self._file(parts) as file:
                    data = b""
                    while len(data) <= limit and (piece := os.read(file, limit + 1 - len(data))):
                        data += piece
            except FileNotFoundError:
                return None
        if len(data) > limit:
            raise BundleError(
                f"{self.root}/{'/'.join(parts)}: expected at most {limit} bytes, found more"
            )
        return data

    def read_at(self, parts: tuple[str, ...], offset: int, length: int) -> bytes | None:
        """Some of a file's bytes; None where it is not there."""
        with _ours(self.root):
            try:
                with self._file(parts) as file:
                    return os.pread(file, length, offset)
            except FileNotFoundError:
                return None

    def write(self, parts: tuple[str, ...], data: bytes) -> bool:
        """Put a file there, whole and durably; False where there is one already."""
        with _ours(self.root), self._folder(parts[:-1], create=True) as folder:
            name = _checked(parts[-1])
            try:
                os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                pass
            else:
                return False
            beside = f"{name}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS
            file = os.open(beside, flags, 0o644, dir_fd=folder)
            try:
                _plain(file, beside)
                view = memoryview(data)
                while view:
                    view = view[os.write(file, view[:_PIECE_BYTES]) :]
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        return True

    def replace(self, parts: tuple[str, ...], data: bytes) -> None:
        """Put a file there in the place of what there was."""
        with _ours(self.root):
            try:
                with self._folder(parts[:-1]) as folder:
                    os.unlink(_checked(parts[-1]), dir_fd=folder)
            except FileNotFoundError:
                pass
        self.write(parts, data)

    @contextmanager
    def _file(self, parts: tuple[str, ...]) -> Iterator[int]:
        with self._folder(parts[:-1]) as folder:
            file = os.open(_checked(parts[-1]), os.O_RDONLY | _FLAGS, dir_fd=folder)
            try:
                _plain(file, parts[-1])
                yield file
            finally:
                os.close(file)

    @contextmanager
    def _folder(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        folder = os.open(self.root, flags)
        try:
            for part in parts:
                name = _checked(part)
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=folder)
                below = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


def blob(sha256: str) -> tuple[str, ...]:
    """Where a blob lies. Raises BundleError."""
    if not _DIGEST.match(sha256):
        raise BundleError(f"expected a sha256 in hex, found {sha256[:80]!r}")
    return ("blobs", sha256)


def desired(device: str) -> tuple[str, ...]:
    """Where the desired state of a device lies. Raises WireError."""
    return ("devices", check_id(device, what="device"), "desired")


def acks(device: str) -> tuple[str, ...]:
    """The folder of what the cloud has committed of a device. Raises WireError."""
    return ("devices", check_id(device, what="device"), "acks")


def reports(device: str) -> tuple[str, ...]:
    """The folder of what a device says. Raises WireError."""
    return ("reports", check_id(device, what="device"))


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise BundleError(f"expected a plain file name, found {name[:80]!r}")
    return name


def _plain(file: int, name: str) -> None:
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise BundleError(f"{name}: expected a plain file, found something else; it is left alone")


@contextmanager
def _ours(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BundleError(
            f"{root}: expected a folder, found none; is the medium mounted?"
        ) from None
    except OSError as error:
        links = error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENXIO}
        reason = "a link or no plain file, which is left alone" if links else error.strerror
        raise BundleError(f"{root}: {reason}") from None
