"""Coded streams of a delta's frames: byte planes under a codec of the standard library.

Rules:
- Decoding is bounded before it begins: a stream says how long it becomes, never more than `MAX_PLAIN_BYTES`, and
  a decoder is not asked for a byte more than that; the codecs' own memory is bounded by their parameters here.
- Every damaged stream raises `DeltaError`, nothing else.
- Numbers that are near each other differ in their low bytes: elements of `width` bytes are laid out byte by byte
  (all lowest bytes first), so that the quiet high bytes lie together. ``phase`` bytes in front are no elements.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ota.errors import DeltaError

MAX_PLAIN_BYTES: Final = 1 << 20
WIDTHS: Final = (1, 2, 4)
_FEW_BYTES: Final = 4_096

Bytes = NDArray[np.uint8]

_RAW, _ZEROS, _DEFLATE, _BZIP2, _LZMA_TEXT, _LZMA_NUMBERS = range(6)


def _filters(*, lc: int, pb: int) -> list[dict[str, Any]]:
    return [
        {"id": lzma.FILTER_LZMA1, "dict_size": MAX_PLAIN_BYTES, "lc": lc, "lp": 0, "pb": pb}
        | {"mode": lzma.MODE_NORMAL, "nice_len": 64, "mf": lzma.MF_BT4}
    ]


_FILTERS: Final[Mapping[int, list[dict[str, Any]]]] = MappingProxyType(
    {_LZMA_TEXT: _filters(lc=3, pb=2), _LZMA_NUMBERS: _filters(lc=0, pb=0)}
)


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One coded stream.

    Attributes:
        codec: number of its codec.
        width, phase: how its elements were laid out.
        plain_bytes: its length when decoded.
        coded: the coded bytes.
    """

    codec: int
    width: int
    phase: int
    plain_bytes: int
    coded: bytes


def decode(stream: Stream) -> Bytes:
    """The stream's bytes, its elements laid out as they were.

    Raises:
        DeltaError: damaged, or longer than it may be.
    """
    if not 0 <= stream.plain_bytes <= MAX_PLAIN_BYTES:
        raise DeltaError(
            f"expected a stream of at most {MAX_PLAIN_BYTES} bytes, found one of {stream.plain_bytes}"
        )
    if stream.width not in WIDTHS or not 0 <= stream.phase < stream.width:
        raise DeltaError(
            f"expected elements of 1, 2 or 4 bytes, found {stream.width} after {stream.phase}"
        )
    try:
        plain = _plain(stream)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
        raise DeltaError(f"expected a stream that can be decoded, found {error}") from None
    if len(plain) != stream.plain_bytes:
        raise DeltaError(
            f"expected a stream of {stream.plain_bytes} bytes, found {'more' if len(plain) > stream.plain_bytes else len(plain)}"
        )
    return gathered(np.frombuffer(plain, np.uint8), width=stream.width, phase=stream.phase)


def encode(data: Bytes, *, width: int = 1, phase: int = 0) -> Stream:
    """The shortest stream of `data` among the codecs."""
    planes = spread(data, width=width, phase=phase).tobytes()
    codec, coded = _shortest(planes)
    return Stream(codec=codec, width=width, phase=phase, plain_bytes=len(planes), coded=coded)


def spread(data: Bytes, *, width: int, phase: int) -> Bytes:
    """Elements laid out byte by byte; what is no whole element stays in front and behind."""
    if width == 1:
        return data
    end = phase + (len(data) - phase) // width * width
    if end <= phase:
        return data
    planes = data[phase:end].reshape(-1, width).T.reshape(-1)
    return np.concatenate((data[:phase], planes, data[end:]))


def gathered(data: Bytes, *, width: int, phase: int) -> Bytes:
    """What `spread` laid out, in its order again."""
    if width == 1:
        return data
    end = phase + (len(data) - phase) // width * width
    if end <= phase:
        return data
    elements = data[phase:end].reshape(width, -1).T.reshape(-1)
    return np.concatenate((data[:phase], elements, data[end:]))


def difference(new: Bytes, old: Bytes, *, width: int, phase: int) -> Bytes:
    """New minus old, element by element (little-endian, two's complement), small ones of either sign near 0."""
    return _by_element(new, old, _folded, width=width, phase=phase)


def restored(differences: Bytes, old: Bytes, *, width: int, phase: int) -> Bytes:
    """What `difference` was taken of."""
    return _by_element(differences, old, _unfolded, width=width, phase=phase)


def _by_element(
    left: Bytes,
    right: Bytes,
    operate: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]],
    *,
    width: int,
    phase: int,
) -> Bytes:
    if width == 1:
        return operate(left, right)
    end = max(phase, phase + (len(left) - phase) // width * width)
    kind = np.dtype(f"<u{width}")
    whole = operate(left[phase:end].view(kind), right[phase:end].view(kind))
    return np.concatenate(
        (
            operate(left[:phase], right[:phase]),
            whole.astype(kind, copy=False).view(np.uint8),
            operate(left[end:], right[end:]),
        )
    )


def _folded(new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """Differences with the sign in the lowest bit: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    signed = np.dtype(f"i{new.dtype.itemsize}")
    found = (new - old).view(signed)
    folded: NDArray[Any] = ((found << 1) ^ (found >> (8 * new.dtype.itemsize - 1))).view(new.dtype)
    return folded


def _unfolded(folded: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    one = folded.dtype.type(1)
    new: NDArray[Any] = old + ((folded >> one) ^ (~(folded & one) + one))
    return new


def _plain(stream: Stream) -> bytes:
    coded, most = stream.coded, stream.plain_bytes + 1
    if stream.codec == _RAW:
        return coded
    if stream.codec == _ZEROS:
        return bytes(stream.plain_bytes) if not coded else b""
    if stream.codec == _DEFLATE:
        return zlib.decompressobj(-15).decompress(coded, most)
    if stream.codec == _BZIP2:
        return bz2.BZ2Decompressor().decompress(coded, most)
    if stream.codec in _FILTERS:
        unpack = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS[stream.codec])
        return unpack.decompress(coded, most)
    raise DeltaError(
        f"expected a codec that is known, found number {stream.codec}; update this program"
    )


def _shortest(plain: bytes) -> tuple[int, bytes]:
    if not plain.strip(b"\0"):
        return _ZEROS, b""
    found = {_RAW: plain, _BZIP2: bz2.compress(plain, 9)}
    for codec, filters in _FILTERS.items():
        found[codec] = lzma.compress(plain, lzma.FORMAT_RAW, filters=filters)
    if len(plain) <= _FEW_BYTES:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        found[_DEFLATE] = deflate.compress(plain) + deflate.flush()
    codec = min(found, key=lambda each: (len(found[each]), each))
    return codec, found[codec]
