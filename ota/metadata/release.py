"""What releases and assignments say about a target beyond TUF's own fields, and how targets are named.

Rules:
- A target's path is ``<model>/<release>/<target>.outrider``; the role that signs it has the model's name.
- Canonical JSON knows no fractions: every number here is an integer.
- Releases are ordered by `release_order`, never as text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, TargetFile

from fleet.artifact.package import SUFFIX
from ota.errors import MetadataError, ReleaseError
from ota.transfer.terms import Terms

ASSIGNMENT_FIELD: Final = "x-outrider"
"""The field of the director's targets metadata that binds it to a device."""

MESSAGES_ROLE: Final = "messages"
"""The role to which the director delegates the signing of messages to devices."""

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
Attestors = Annotated[
    list[Annotated[str, msgspec.Meta(max_length=1024)]], msgspec.Meta(max_length=8)
]
Floor = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._+-]{0,63})?\Z")]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")

S = TypeVar("S", bound=msgspec.Struct)


class Blocks(msgspec.Struct, frozen=True, kw_only=True):
    """Where a blob's signed block list is found: a blob itself.

    Attributes:
        sha256, length: of the block list's bytes.
        block_size: size of the blob's blocks in bytes; the last one may be shorter.
    """

    sha256: Digest
    length: Natural
    block_size: Natural


class TargetCustom(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the image repository says of a target, signed by the model's release key.

    Attributes:
        candidate_for: the one device that may have it, to prove it there: it is tried and never
            activated, and every other device refuses it. Empty for what is released.
        attested_by: public keys (PEM) of the compiling hosts that the release key vouches for: the
            artifact's attestation must be signed by one of them. Empty in releases of before devices
            checked attestations, which no device takes any more.
    """

    model: str
    release: str
    runtime: str
    hardware_classes: list[str]
    security_floor: Floor
    blocks: Blocks
    candidate_for: str = ""
    attested_by: Attestors = []


class Way(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A blob by which a device gets a target with less to send; the target's own digest proves what comes of it.

    Attributes:
        kind: ``delta`` (`ota.delta.format`) or ``chunks`` (a list of chunks, `ota.delta.chunks`: what the device
            does not hold of them is fetched as blocks of the target).
        base: sha256 of the artifact that a delta starts from; empty where it needs none.
        sha256, length: of the blob.
        blocks: its own block list.
    """

    kind: Literal["delta", "chunks"]
    sha256: Digest
    length: Natural
    blocks: Blocks
    base: Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")] = ""


Ways = Annotated[list[Way], msgspec.Meta(max_length=8)]


class AssignmentCustom(msgspec.Struct, frozen=True, kw_only=True):
    """What the director says of one target of a device's assignment.

    Attributes:
        activate_before: Unix time after which it must no longer be activated; 0 means never.
        transfer: on what terms it is fetched.
        ways: ways of sending less than the target, best first.
    """

    activate_before: Natural = 0
    transfer: Terms = Terms()
    ways: Ways = []


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What binds the director's targets metadata to one device."""

    device: str
    tenant: str
    counter: Natural


@dataclass(frozen=True, kw_only=True)
class ReleaseFile:
    """One variant of a release: an artifact for one compile target.

    Attributes:
        target: name of the compile target, for instance ``litert-cpu``.
        sha256, length_bytes: of the artifact's file.
        blocks_sha256, blocks_length_bytes, block_size_bytes: of its block list.
        variant: what tells it from another artifact for the same target; empty for the first.
        candidate_for: the device that is to prove it; see `TargetCustom`.
        attested_by: public keys (PEM) of the hosts that attested it.
    """

    target: str
    sha256: str
    length_bytes: int
    blocks_sha256: str
    blocks_length_bytes: int
    block_size_bytes: int
    runtime: str
    hardware_classes: Sequence[str]
    variant: str = ""
    candidate_for: str = ""
    attested_by: Sequence[str] = ()


class TargetPath(NamedTuple):
    """A target's path, taken apart."""

    model: str
    release: str
    target: str


def check_model(model: str) -> str:
    """Return `model` when it may name a role.

    Raises:
        ReleaseError: it may not; TUF's own role names are taken.
    """
    if not _NAME.match(model) or model in TOP_LEVEL_ROLE_NAMES:
        raise ReleaseError(
            f"expected a model name of 1 to 64 of A-Z a-z 0-9 _ - other than "
            f"{', '.join(sorted(TOP_LEVEL_ROLE_NAMES))}; found {model!r}; rename the model"
        )
    return model


def target_path(model: str, release: str, target: str) -> str:
    """The path under which the artifact of `model` in `release` for `target` is signed.

    Raises:
        ReleaseError: a part is not a legal name.
    """
    check_model(model)
    if not _RELEASE.match(release):
        raise ReleaseError(
            f"expected a release of 1 to 64 of A-Z a-z 0-9 . _ + -, found {release!r}; rename it"
        )
    if not _NAME.match(target):
        raise ReleaseError(
            f"expected a target name of 1 to 64 of A-Z a-z 0-9 _ -, found {target!r}; rename it"
        )
    return f"{model}/{release}/{target}{SUFFIX}"


def variant_name(target: str, variant: str) -> str:
    """How an artifact is called in its path: by its target, and by its variant where it has one."""
    return f"{target}-{variant}" if variant else target


def parse_path(path: str) -> TargetPath:
    """Take a target's path apart.

    Raises:
        MetadataError: it is not of the form ``<model>/<release>/<target>.outrider``.
    """
    parts = path.split("/")
    if len(parts) == 3 and parts[2].endswith(SUFFIX):
        found = TargetPath(parts[0], parts[1], parts[2][: -len(SUFFIX)])
        try:
            if target_path(*found) == path:
                return found
        except ReleaseError:
            pass
    raise MetadataError(
        f"expected a target path MODEL/RELEASE/TARGET{SUFFIX}, found {path[:200]!r}; "
        f"the repository must be repaired"
    )


def release_order(release: str) -> list[tuple[int, int, str]]:
    """A key that sorts releases: runs of digits by value, other text by code point, digits after text.

    ``1 < 2 < 10``, ``1.9 < 1.10``, ``2-rc1 < 2.0``; a release that another begins with comes before it.
    """
    parts = re.findall(r"[0-9]+|[^0-9]+", release)
    return [(1, int(part), "") if part[0] in "0123456789" else (0, 0, part) for part in parts]


def is_digest(text: str) -> bool:
    """Whether `text` is a SHA-256 in lower-case hex."""
    return bool(_DIGEST.match(text))


def custom_of(kind: type[S], value: Any, *, name: str) -> S:
    """Read a custom field of metadata.

    Raises:
        MetadataError: it does not have the form of `kind`.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise MetadataError(f"{name}: {error}; the repository must be repaired") from None


def target_file(model: str, release: str, file: ReleaseFile, floor: str) -> TargetFile:
    """A variant of a release as the image repository lists it.

    Raises:
        ReleaseError: a name is not legal.
    """
    custom = TargetCustom(
        model=model,
        release=release,
        runtime=file.runtime,
        hardware_classes=list(file.hardware_classes),
        security_floor=floor,
        blocks=Blocks(
            sha256=file.blocks_sha256,
            length=file.blocks_length_bytes,
            block_size=file.block_size_bytes,
        ),
        candidate_for=file.candidate_for,
        attested_by=list(file.attested_by),
    )
    return TargetFile(
        length=file.length_bytes,
        hashes={"sha256": file.sha256},
        path=target_path(model, release, variant_name(file.target, file.variant)),
        unrecognized_fields={"custom": msgspec.to_builtins(custom)},
    )
