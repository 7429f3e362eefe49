"""TUF documents to bytes and back (https://theupdateframework.github.io/specification/latest/).

Rules:
- Reading is bounded by role and answers every malformed input with `MetadataError`.
- The bytes of a document depend on its content and its signatures alone.
- A number that is no integer is refused when a document is read: canonical JSON has none, so that nothing
  could be signed over it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Final, NoReturn, TypeVar

import msgspec
from securesystemslib.signer import Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from fleet.errors import OutriderError
from ota.errors import MetadataError, SigningError

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


class _Dated(msgspec.Struct):
    expires: datetime


class _AnyDated(msgspec.Struct):
    signed: _Dated


class _AnyDocument(msgspec.Struct):
    signed: _Versioned


_serializer = JSONSerializer(compact=True)
_ESCAPED = re.compile(r'\\(?:["\\bfnrt]|u[0-9a-f]{4})')


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
        parsed = json.loads(data.decode(), parse_float=_refuse, parse_constant=_refuse)
        metadata: Metadata[T] = Metadata.from_dict(parsed)
    except Exception as error:  # noqa: BLE001 - tuf.api does not say what it raises on what it is given
        raise MetadataError(
            f"{name}: expected {kind.type} metadata, found {type(error).__name__} ({str(error)[:200]}); "
            f"the repository must be repaired"
        ) from None
    if not isinstance(metadata.signed, kind):
        raise MetadataError(
            f"{name}: expected {kind.type} metadata, found {metadata.signed.type}; "
            f"the repository must be repaired"
        )
    return metadata


def write(signed: T, signers: Sequence[Signer]) -> bytes:
    """Sign a document with each of `signers` and return its bytes; errors as of `add_signatures`."""
    return add_signatures(Metadata(signed), signers)


def add_signatures(metadata: Metadata[T], signers: Sequence[Signer]) -> bytes:
    """Sign a document with each of `signers` beside those who signed it before, and return its bytes.

    Raises:
        OutriderError: what a signer of ours raised.
        SigningError: another does not sign.
    """
    for signer in signers:
        try:
            metadata.sign(signer, append=True)
        except UnsignedMetadataError as error:
            if isinstance(error.__cause__, OutriderError):
                raise error.__cause__ from None
            raise SigningError(f"expected a signature, found {error.__cause__!r}") from error
    return metadata.to_bytes(_serializer)


def canonical(signed: Signed) -> bytes:
    """What is signed of a document that was read: its canonical JSON, as `Metadata.signed_bytes` has it.

    OLPC's canonical JSON is JSON with sorted keys, no spaces, and nothing escaped but quotation marks and
    backslashes. So the C encoder does the work, and its other escapes are undone; that is an order of
    magnitude faster, and verification spends most of its time here.

    Raises:
        ValueError: text that is no Unicode.
    """
    text = json.dumps(signed.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return _ESCAPED.sub(_unescape, text).encode()


def _unescape(escape: re.Match[str]) -> str:
    text = escape.group()
    return text if text[1] in '"\\' else str(json.loads(f'"{text}"'))


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"a number that is no integer, {text[:40]}")


def version_of(data: bytes, *, name: str) -> int:
    """The version of a document of any type; its signatures are not looked at.

    Raises:
        MetadataError: it has none.
    """
    try:
        return msgspec.json.decode(data, type=_AnyDocument).signed.version
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MetadataError(f"{name}: expected TUF metadata, found {error}") from None


def expiry_of(data: bytes, *, name: str) -> float:
    """When a document of any type expires, seconds since the epoch; its signatures are not looked at.

    Raises:
        MetadataError: it does not say.
    """
    try:
        return msgspec.json.decode(data, type=_AnyDated).signed.expires.timestamp()
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
