"""A window as a row of a database holds it: MessagePack behind a CRC-32.

The same bytes stand in the device's buffer and in the cloud's registry. Damage in the middle of a
database file can be silent, so each row proves itself.
"""

from __future__ import annotations

import zlib

import msgspec

from fleet.errors import WireError
from fleet.telemetry.window import Window

_CRC_BYTES = 4
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Window)


def encode(window: Window) -> bytes:
    """The row."""
    body = _encoder.encode(window)
    return zlib.crc32(body).to_bytes(_CRC_BYTES, "big") + body


def decode(row: bytes) -> Window:
    """Read a row.

    Raises:
        WireError: the row is damaged, or no window.
    """
    body = row[_CRC_BYTES:]
    expected, found = int.from_bytes(row[:_CRC_BYTES], "big"), zlib.crc32(body)
    if len(row) < _CRC_BYTES or expected != found:
        raise WireError(
            f"expected a stored window with CRC {expected:08x}, found {found:08x}; the row is damaged, set it aside",
        )
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"expected a stored window, found {error}; set the row aside") from None
