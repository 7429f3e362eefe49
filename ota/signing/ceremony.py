"""Changing roots with keys that never come near the cloud: a request travels to its signers and back.

Rules:
- A request holds, per repository, the root that is in force and the one that is to follow it. Each holder
  of a key adds a signature; when enough have, it is published.
- A root is enough signed when a device that trusts the one in force would take it: `ota.verify.roots` says
  so, the very code that devices run.
- A request that begins anew is not signed by the keys in force, because they are lost or stolen: no device
  follows it by itself, each must be enrolled again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec
from securesystemslib.signer import Signer
from tuf.api.metadata import Root

from ota.errors import CeremonyError, ThresholdError
from ota.metadata import documents, roots
from ota.signing import secret_files
from ota.verify.roots import RootChain

FORMAT: Final = "outrider-root-request/1"
MAX_BYTES: Final = 4_000_000
Change = Callable[[Root], None]


class Proposal(msgspec.Struct, frozen=True):
    """What is to happen to one repository's root.

    Attributes:
        trusted: the root that is in force, N.
        proposed: root N + 1, with the signatures that it has so far.
    """

    trusted: bytes
    proposed: bytes


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the roots of one repository or of both.

    Attributes:
        what: in a few words, for those who sign.
        roots: by repository, ``image`` or ``director``.
        anew: begin anew, without the keys in force.
    """

    format: Literal["outrider-root-request/1"] = FORMAT
    what: str
    roots: dict[str, Proposal]
    anew: bool = False


class Missing(msgspec.Struct, frozen=True):
    """Signatures that a root still needs.

    Attributes:
        needed: how many more.
        of: key ids of which they may be.
        why: which root asks for them: ``in force`` or ``new``.
    """

    repository: str
    needed: int
    of: tuple[str, ...]
    why: str


def propose(
    files: Mapping[str, bytes],
    changes: Mapping[str, Change],
    *,
    what: str,
    now: float,
    anew: bool = False,
) -> Request:
    """A request for the next roots.

    Args:
        files: the root in force of each repository.
        changes: what is to become of each, by repository.
        what: the change in a few words.
        now: the time, seconds since the epoch.
        anew: begin anew.
    """
    proposals = {}
    for repository, change in changes.items():
        trusted = files[repository]
        new = roots.following(read_root(trusted, repository), repository=repository, now=now)
        change(new)
        proposals[repository] = Proposal(trusted, documents.write(new, []))
    return Request(what=what, roots=proposals, anew=anew)


def sign(request: Request, signer: Signer) -> tuple[Request, list[str]]:
    """Add a signer's signature wherever its key counts.

    Returns:
        The request with the signatures, and the repositories whose root was signed.

    Raises:
        CeremonyError: its key counts nowhere.
        KeyFileError, SigningError: it does not sign.
    """
    keyid = signer.public_key.keyid
    changed = {}
    for repository, proposal in request.roots.items():
        old, new = read_root(proposal.trusted, repository), read_root(proposal.proposed, repository)
        counts = {*new.roles[Root.type].keyids}
        if not request.anew:
            counts |= {*old.roles[Root.type].keyids}
        if keyid in counts:
            metadata = documents.read(Root, proposal.proposed, name=f"{repository}/root.json")
            signed = documents.add_signatures(metadata, [signer])
            changed[repository] = Proposal(proposal.trusted, signed)
    if not changed:
        raise CeremonyError(
            f"expected a root key of {' or '.join(request.roots)}, found {keyid[:16]}, which is none of them, "
            f"neither before nor after this change"
        )
    return msgspec.structs.replace(request, roots={**request.roots, **changed}), sorted(changed)


def missing(request: Request) -> list[Missing]:
    """The signatures that are still needed; empty when the request can be published."""
    found = []
    for repository, proposal in request.roots.items():
        metadata = documents.read(Root, proposal.proposed, name=f"{repository}/root.json")
        judges = [("new", metadata.signed)]
        if not request.anew:
            judges.insert(0, ("in force", read_root(proposal.trusted, repository)))
        for why, root in judges:
            result = root.get_verification_result(
                Root.type, documents.canonical(metadata.signed), metadata.signatures
            )
            if not result:
                needed = result.threshold - len(result.signed)
                found.append(Missing(repository, needed, tuple(sorted(result.unsigned)), why))
    return found


def check(request: Request) -> None:
    """See that devices would take every root of the request.

    Raises:
        CeremonyError: signatures are missing.
        VerificationError: a root does not hold.
    """
    lacking = missing(request)
    if lacking:
        told = "; ".join(
            f"{one.repository} needs {one.needed} more of {', '.join(k[:16] for k in one.of)} (keys {one.why})"
            for one in lacking
        )
        raise CeremonyError(
            f"expected a request that enough holders have signed: {told}; "
            f"each signs it with: outrider keys sign REQUEST --key FILE"
        )
    for repository, proposal in request.roots.items():
        if request.anew:
            RootChain(proposal.proposed, now=None, name=repository)
            continue
        try:
            RootChain(proposal.trusted, now=None, name=repository).update_root(proposal.proposed)
        except ThresholdError as error:
            raise CeremonyError(f"{error} (one key under two ids counts once)") from None


def read_root(data: bytes, repository: str) -> Root:
    """A root's content; its signatures are not looked at. Raises MetadataError."""
    return documents.read(Root, data, name=f"{repository}/root.json").signed


def to_bytes(request: Request) -> bytes:
    """The request as a file."""
    return msgspec.json.format(msgspec.json.encode(request), indent=2) + b"\n"


def parse(data: bytes, *, name: str = "request") -> Request:
    """Read a request.

    Raises:
        CeremonyError: it is none.
        MetadataError: a root in it is none.
    """
    try:
        request = msgspec.json.decode(data, type=Request)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CeremonyError(f"{name}: expected a root request, found {error}") from None
    if not request.roots or not set(request.roots) <= {"image", "director"}:
        raise CeremonyError(
            f"{name}: expected the roots of image or director, found {sorted(request.roots)}"
        )
    for repository, proposal in request.roots.items():
        old = read_root(proposal.trusted, repository)
        new = read_root(proposal.proposed, repository)
        if new.version != old.version + 1:
            raise CeremonyError(
                f"{name}: expected {repository} root {old.version + 1}, found {new.version}"
            )
    return request


def load(path: Path) -> Request:
    """Read a request's file. Raises CeremonyError, MetadataError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
    except OSError as error:
        raise CeremonyError(f"{path}: expected a root request, found {error.strerror}") from None
    return parse(data, name=str(path))


def save(path: Path, request: Request) -> None:
    """Write a request's file, whole or not at all."""
    secret_files.write(path, to_bytes(request))
