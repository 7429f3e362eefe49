"""Uploaded model folders: a ZIP archive from anybody, onto the disk without harm.

Rules:
- Names are checked before a byte is written: no absolute path, no ``..``, no backslash or drive, no
  link or device, no name twice, no encryption.
- Sizes are counted while inflating, so that a header cannot lie; what is over a limit stops the work.
- The digest of a folder covers its file names and contents and nothing else, so that two archives of
  the same folder are the same folder.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from cloud.errors import InputError

MAX_ARCHIVE_BYTES = 4 << 30
MAX_FOLDER_BYTES = 16 << 30
MAX_FILES = 10_000
MAX_DEPTH = 16
MAX_RATIO = 1_000
_CHUNK = 1 << 20
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError,
    ValueError, OverflowError, struct.error,
)  # fmt: skip
_RATIO_FREE_BYTES = 64 << 20


def extract(archive_path: Path, into: Path) -> dict[str, str]:
    """Write the archive's files below `into`, which must be empty; returns the SHA-256 of each by its path.

    Raises:
        InputError: not a ZIP archive, or one that breaks a rule; `into` may then hold some files.
    """
    try:
        with zipfile.ZipFile(archive_path) as archive:
            members = _checked(archive)
            packed = archive_path.stat().st_size
            left = min(MAX_FOLDER_BYTES, packed * MAX_RATIO + _RATIO_FREE_BYTES)
            digests: dict[str, str] = {}
            for name, info in sorted(members.items()):
                digest, size = _write(archive, info, into / name, limit=left)
                digests[name] = digest
                left -= size
    except UnicodeError:
        raise InputError("expected file names in UTF-8, found others; rename them") from None
    except _DAMAGED as error:
        raise InputError(f"expected a ZIP archive of a model folder, found {error}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a damaged offset; anything else is this machine's trouble
            raise
        raise InputError("expected a ZIP archive of a model folder, found a damaged one") from None
    return digests


def digest_of(files: dict[str, str], *, below: str = ".") -> str:
    """The digest of a folder.

    Args:
        files: SHA-256 of each file by its path.
        below: the folder in which they are counted; files elsewhere do not matter.
    """
    inside = {
        PurePosixPath(name).relative_to(below).as_posix(): digest
        for name, digest in files.items()
        if PurePosixPath(name).is_relative_to(below)
    }
    lines = (f"{digest} {name}\n" for name, digest in sorted(inside.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def root_of(folder: Path) -> Path:
    """Where ``outrider.toml`` is: the folder itself, or the one folder in it."""
    if (folder / "outrider.toml").is_file():
        return folder
    inside = [path for path in folder.iterdir() if path.name != "__MACOSX"]
    if len(inside) == 1 and inside[0].is_dir():
        return inside[0]
    return folder


def _checked(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise InputError(f"expected at most {MAX_FILES} files in the archive, found {len(infos)}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = _checked_name(info)
        if info.is_dir():
            continue
        if name in members:
            raise InputError(f"expected each file once in the archive, found {name!r} twice")
        members[name] = info
    folders = {str(parent) for name in members for parent in PurePosixPath(name).parents}
    clash = sorted(folders & set(members))
    if clash:
        raise InputError(f"expected a file or a folder, found {clash[0]!r} as both in the archive")
    return members


def _checked_name(info: zipfile.ZipInfo) -> str:
    path = PurePosixPath(info.filename)
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    bad = (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or len(path.parts) > MAX_DEPTH
        or any(c in info.filename for c in "\\:\0")
        or any(len(part.encode()) > 255 for part in path.parts)
    )
    if bad:
        raise InputError(
            f"expected relative paths inside the folder, found {info.filename!r} in the archive"
        )
    if kind and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise InputError(
            f"expected files only, found a link or special file {info.filename!r}; put the file itself in"
        )
    if info.flag_bits & 0x1:
        raise InputError(f"expected no encryption, found {info.filename!r} encrypted")
    return str(path)


def _write(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, *, limit: int
) -> tuple[str, int]:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with archive.open(info) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > limit:
                raise InputError(
                    f"{info.filename}: the archive inflates to more than is allowed; leave large files out"
                )
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest(), size
