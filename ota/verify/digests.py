"""Bytes against the length and the digests that a signed document names."""

from __future__ import annotations

from typing import IO, Final

from tuf.api import exceptions as tuf_errors
from tuf.api.metadata import MetaFile, TargetFile

from ota.errors import DigestError

STRONG: Final = frozenset(
    ("sha256", "sha384", "sha512", "sha3_256", "sha3_384", "sha3_512", "blake2b", "blake2s")
)
"""Digests of which at least one must name a file; others are checked beside it."""


def check(named: MetaFile | TargetFile, data: bytes | IO[bytes], *, name: str) -> None:
    """Hold bytes against what a signed document says of them.

    Args:
        named: what it says; where there are no digests, the length alone is checked.
        data: the bytes, or a file that is open for reading and can seek.
        name: what to call them in messages.

    Raises:
        DigestError: they are others, or are named by broken or unknown digests alone.
    """
    if named.hashes and STRONG.isdisjoint(named.hashes):
        raise DigestError(
            f"{name}: expected one of {', '.join(sorted(STRONG))} to name it, "
            f"found {', '.join(sorted(named.hashes))[:200]}; the repository must be repaired"
        )
    try:
        named.verify_length_and_hashes(data)
    except tuf_errors.LengthOrHashMismatchError as error:
        raise DigestError(f"{name}: {error}; the repository must be repaired") from None
