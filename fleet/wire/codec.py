"""Messages to bytes and back: JSON for control, MessagePack for telemetry and blocks.

Rules:
- `decode` accepts at most `MAX_MESSAGE_BYTES` and answers every malformed input with `WireError`.
- The codec of a kind is fixed by its topic, never guessed from the bytes.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fleet.errors import WireError

MAX_MESSAGE_BYTES = 900_000
"""Below the 1 MiB that brokers cap payloads at by default."""

T = TypeVar("T")

# Not `order="deterministic"`: that refuses the number keys of a window's classes. Fields have a fixed
# order anyway, and a signature covers the bytes that travel.
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


def to_json(message: object) -> bytes:
    """Encode a control message."""
    return _checked(_json_encoder.encode(message))


def to_msgpack(message: object) -> bytes:
    """Encode telemetry or a block."""
    return _checked(_msgpack_encoder.encode(message))


def from_json(kind: type[T], data: bytes) -> T:
    """Decode a control message.

    Raises:
        WireError: too long, not JSON, or not a `kind`.
    """
    try:
        return msgspec.json.decode(_checked(data), type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(
            f"expected a {_name(kind)} as JSON, found {error}; the sender must be fixed"
        ) from None


def from_msgpack(kind: type[T], data: bytes) -> T:
    """Decode telemetry or a block.

    Raises:
        WireError: too long, not MessagePack, or not a `kind`.
    """
    try:
        return msgspec.msgpack.decode(_checked(data), type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(
            f"expected a {_name(kind)} as MessagePack, found {error}; the sender must be fixed",
        ) from None


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireError(
            f"expected a message of at most {MAX_MESSAGE_BYTES} bytes, found {len(data)}"
        )
    return data


def _name(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))
