"""TUF documents to bytes and back (https://theupdateframework.github.io/specification/latest/).

Rules:
- Reading is bounded by role and answers every malformed input with `MetadataError`.
- The bytes of a document depend on its content and its signatures alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final, TypeVar

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from ota.errors import MetadataError

MAX_BYTES: Final = {
    Root.type: 512_000,
    Timestamp.type: 16_384,
    Snapshot.type: 2_000_000,
    Targets.type: 5_000_000,
}
"""The longest document that is read, by type; a longer one is refused before it is parsed."""

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)


class _Versioned(msgspec.Struct):
    version: int


class _AnyDocument(msgspec.Struct):
    signed: _Versioned


_serializer = JSONSerializer(compact=True)


def read(kind: type[T], data: bytes, *, name: str) -> Metadata[T]:
    """Parse a document; its signatures are not looked at.

    Args:
        kind: the type that it must have.
        data: the bytes.
        name: what to call it in messages, for instance ``image/timestamp.json``.

    Raises:
        MetadataError: longer than its type may be, malformed, or of another type.
    """
    if len(data) > MAX_BYTES[kind.type]:
        raise MetadataError(
            f"{name}: expected at most {MAX_BYTES[kind.type]} bytes, found {len(data)}; "
            f"the repository must be repaired"
        )
    try:
        metadata: Metadata[T] = Metadata.from_bytes(data)
    except DeserializationError as error:
        cause = error.__cause__ or error
        raise MetadataError(
            f"{name}: expected {kind.type} metadata, found {type(cause).__name__} ({str(cause)[:200]}); "
            f"the repository must be repaired"
        ) from None
    if not isinstance(metadata.signed, kind):
        raise MetadataError(
            f"{name}: expected {kind.type} metadata, found {metadata.signed.type}; "
            f"the repository must be repaired"
        )
    return metadata


def write(signed: T, signers: Sequence[Signer]) -> bytes:
    """Sign a document with each of `signers` and return its bytes."""
    metadata: Metadata[T] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(_serializer)


def version_of(data: bytes, *, name: str) -> int:
    """The version of a document of any type; its signatures are not looked at.

    Raises:
        MetadataError: it has none.
    """
    try:
        return msgspec.json.decode(data, type=_AnyDocument).signed.version
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MetadataError(f"{name}: expected TUF metadata, found {error}") from None


def moment(at: float) -> datetime:
    """A Unix time as TUF writes it: UTC, whole seconds."""
    return datetime.fromtimestamp(int(at), tz=timezone.utc)


def next_version(last: int, now: float) -> int:
    """The version after `last`: the time in seconds where that is greater, else one more.

    A repository restored from a backup has forgotten its last versions; the time has not stood
    still, so that what it signs next is still newer than what devices have seen.
    """
    return max(last + 1, int(now))
