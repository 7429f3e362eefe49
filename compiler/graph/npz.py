"""Reading npz files that nobody vouches for: plain arrays, and no more memory than there are bytes.

Rules:
- Members are stored or deflated ``.npy`` files, each name once; what an array's header claims is held
  against the member's size before memory is taken, and that against what is free on this host.
- No pickle is ever opened: arrays hold booleans, numbers or texts.
"""

from __future__ import annotations

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Final

import numpy as np
import psutil
from numpy.typing import NDArray

from compiler.errors import DataError

MAX_DATA_BYTES: Final = 8 << 30
MAX_ARRAYS: Final = 256
MAX_RANK: Final = 64
_MEMORY_SHARE: Final = 0.8
_KINDS: Final = "biufcSU"
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SUFFIX: Final = ".npy"
_DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, NotImplementedError, EOFError,
    RuntimeError, OSError, ValueError, OverflowError, LookupError, TypeError, SyntaxError,
)  # fmt: skip

Array = NDArray[np.generic]
Arrays = dict[str, Array]


def read(path: Path) -> Arrays:
    """The arrays of an npz file, by name.

    Raises:
        DataError: unreadable, damaged, pickled, too large, or with members that are no plain arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                _name(path, info): _array(path, archive, info) for info in _members(path, archive)
            }
    except MemoryError:
        raise DataError(
            f"{path}: expected arrays that fit into memory, found larger ones; save fewer samples"
        ) from None
    except _DAMAGED as error:
        raise DataError(
            f"{path}: expected an npz file of plain numpy arrays, found: {error or type(error).__name__}; "
            "save it with numpy.savez"
        ) from None


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if total > MAX_DATA_BYTES or len(infos) > MAX_ARRAYS:
        raise DataError(
            f"{path}: expected at most {MAX_ARRAYS} arrays of {MAX_DATA_BYTES} bytes together, "
            f"found {len(infos)} of {total}"
        )
    free = int(psutil.virtual_memory().available * _MEMORY_SHARE)
    if total > free:
        raise DataError(
            f"{path}: expected at most {free >> 20} MiB of arrays, which is what this host has free, "
            f"found {total >> 20} MiB; save fewer samples"
        )
    names = [info.filename for info in infos]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: expected each array once, found {twice!r} twice")
    return infos


def _name(path: Path, info: zipfile.ZipInfo) -> str:
    if not info.filename.endswith(_SUFFIX):
        raise DataError(
            f"{path}: expected arrays (*{_SUFFIX}) alone, found {info.filename[:200]!r}; "
            "save it with numpy.savez"
        )
    return info.filename.removesuffix(_SUFFIX)


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    named = f"{path}: {_name(path, info)}"
    if info.flag_bits & 1 or info.compress_type not in _METHODS:
        raise DataError(
            f"{named}: expected an array that is stored or deflated, found it encrypted or packed otherwise; "
            "save it with numpy.savez"
        )
    with archive.open(info) as member:
        shape, fortran, dtype = _header(member)
        if dtype.kind not in _KINDS or dtype.hasobject:
            raise DataError(
                f"{named}: expected booleans, numbers or texts, found dtype {dtype}; pickled objects are not opened"
            )
        size = math.prod(shape) * dtype.itemsize
        left = info.file_size - member.tell()
        if len(shape) > MAX_RANK or any(n < 0 for n in shape) or size != left:
            raise DataError(
                f"{named}: expected {size} bytes for shape {list(shape)} of {dtype}, found {left}; "
                "the file is damaged, save it again"
            )
        body = bytearray(size)
        _fill(member, body)
        if member.read(1):  # also has the checksum looked at
            raise ValueError("more bytes than the archive says")
    if not dtype.itemsize:
        return np.zeros(shape, dtype)
    return np.ndarray(shape, dtype, buffer=body, order="F" if fortran else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, order and dtype; numpy's own readers, which evaluate literals only and bound their length."""
    version = np.lib.format.read_magic(member)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        if version == (1, 0):
            return np.lib.format.read_array_header_1_0(member)
        if version in {(2, 0), (3, 0)}:
            return np.lib.format.read_array_header_2_0(member)
    raise ValueError(f"version {version} of the array format, which is not known")


def _fill(member: IO[bytes], body: bytearray) -> None:
    view, at = memoryview(body), 0
    while at < len(view):
        piece = member.read(min(1 << 20, len(view) - at))
        if not piece:
            raise EOFError(f"only {at} of {len(view)} bytes")
        view[at : at + len(piece)] = piece
        at += len(piece)
