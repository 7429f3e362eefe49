"""The artifact's file: a ZIP archive whose bytes depend on its content alone.

Members: ``manifest.json``, the payload (stored, so that it can be mapped), ``golden.npz`` (arrays
``in:NAME`` and ``out:NAME``: inputs as the model takes them, outputs of the fp32 model; stored, because
its own members are compressed and the next version's inputs are the same bytes) and, where
one was made, ``attestation.json`` (an in-toto statement in a DSSE envelope).

Rules:
- Members stand in sorted order with a fixed time stamp; two builds of the same content are equal.
- Reading is bounded: a member's size is checked before a byte of it is inflated, an array's before
  memory is taken for it; a file that is damaged or forged raises `ManifestError` and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from fleet.artifact import manifest as manifests
from fleet.artifact.manifest import Manifest
from fleet.errors import ManifestError

SUFFIX = ".outrider"
MANIFEST = "manifest.json"
GOLDEN = "golden.npz"
ATTESTATION = "attestation.json"
MAX_MEMBER_BYTES = 4 << 30
MAX_MEMBERS = 16
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAX_SMALL_MEMBER_BYTES = 256 << 20
_PIECE_BYTES = 1 << 20
_LOCAL_HEADER_BYTES = 30  # without name and extra field (APPNOTE.TXT, 4.3.7)
_NAME_AND_EXTRA = struct.Struct("<HH")

# What `zipfile` and `zlib` raise on damaged archives.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, RuntimeError, OSError,
    ValueError, OverflowError, LookupError,
)  # fmt: skip

Arrays = dict[str, NDArray[np.generic]]


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact in memory."""

    manifest: Manifest
    payload: bytes
    golden_inputs: Arrays
    golden_outputs: Arrays
    attestation: bytes = b""


class Digests(msgspec.Struct, frozen=True):
    """What an artifact consists of.

    Attributes:
        members: sha256 of each member's content but the attestation's, by name.
        attestation: the envelope; empty where there is none.
    """

    members: dict[str, str]
    attestation: bytes


def write(package: Package) -> bytes:
    """The file's bytes."""
    golden = {f"in:{k}": v for k, v in package.golden_inputs.items()}
    golden |= {f"out:{k}": v for k, v in package.golden_outputs.items()}
    members = {
        MANIFEST: manifests.encode(package.manifest),
        package.manifest.payload.member: package.payload,
        GOLDEN: npz_bytes(golden),
    }
    if package.attestation:
        members[ATTESTATION] = package.attestation
    return _zip(members, stored={package.manifest.payload.member, GOLDEN})


def read(data: bytes) -> Package:
    """Parse and check an artifact's file.

    Raises:
        ManifestError: not an artifact, a member missing, too large, or a payload that is not the
            one that the manifest names.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            manifest = manifests.decode(_member(archive, MANIFEST))
            payload = _member(archive, manifest.payload.member, limit=MAX_MEMBER_BYTES)
            golden = _arrays(_member(archive, "golden.npz"))
            names = set(archive.namelist())
            attestation = _member(archive, ATTESTATION) if ATTESTATION in names else b""
    except _DAMAGED as error:
        raise ManifestError(
            f"not an artifact of Outrider ({error}); expected a file made by `outrider compile`"
        ) from None
    digest = hashlib.sha256(payload).hexdigest()
    if digest != manifest.payload.sha256:
        raise ManifestError(
            f"{manifest.payload.member}: expected sha256 {manifest.payload.sha256}, found {digest}"
        )
    return Package(
        manifest=manifest,
        payload=payload,
        golden_inputs={k[3:]: v for k, v in golden.items() if k.startswith("in:")},
        golden_outputs={k[4:]: v for k, v in golden.items() if k.startswith("out:")},
        attestation=attestation,
    )


def digests(file: BinaryIO) -> Digests:
    """What an artifact's file consists of, piece by piece, so that a large payload takes no memory.

    Raises:
        ManifestError: not an archive, damaged, or with more or larger members than artifacts have.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            names = {info.filename for info in infos}
            if len(infos) > MAX_MEMBERS or len(names) != len(infos):
                raise ManifestError(
                    f"not an artifact: expected at most {MAX_MEMBERS} members, each once, found {len(infos)}"
                )
            members = {
                info.filename: _sha256(archive, info)
                for info in infos
                if info.filename != ATTESTATION
            }
            attestation = _member(archive, ATTESTATION) if ATTESTATION in names else b""
    except _DAMAGED as error:
        raise ManifestError(
            f"not an artifact of Outrider ({error}); expected a file made by `outrider compile`"
        ) from None
    return Digests(members, attestation)


def spans(data: bytes) -> dict[str, tuple[int, int]]:
    """Where each member's content lies in the file: offset and length as it is stored; empty for no archive."""
    found: dict[str, tuple[int, int]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist()[:MAX_MEMBERS]:
                name, extra = _NAME_AND_EXTRA.unpack_from(data, info.header_offset + 26)
                start = info.header_offset + _LOCAL_HEADER_BYTES + name + extra
                if start + info.compress_size <= len(data):
                    found[info.filename] = (start, info.compress_size)
    except _DAMAGED:
        return {}
    return found


def npz_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Arrays as a compressed npz whose bytes depend on the arrays alone."""
    members = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(
            buffer, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False
        )
        members[f"{name}.npy"] = buffer.getvalue()
    return _zip(members, stored=set())


def _arrays(data: bytes) -> Arrays:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inflated = sum(info.file_size for info in archive.infolist())
            if inflated > _MAX_SMALL_MEMBER_BYTES:
                raise ManifestError(
                    f"golden.npz: expected at most {_MAX_SMALL_MEMBER_BYTES} bytes of arrays, found {inflated}"
                )
            return {
                name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()
            }
    except (*_DAMAGED, TypeError, SyntaxError) as error:
        raise ManifestError(f"golden.npz: expected plain numpy arrays, found {error}") from None


def _array(data: bytes) -> NDArray[np.generic]:
    """One ``.npy`` file; unlike `numpy.load`, takes no memory for more elements than there are bytes."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("another version of the array format than 1.0")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    body = bytearray(data[stream.tell() :])
    expected = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or len(body) != expected:
        raise ValueError(f"{len(body)} bytes for an array of shape {shape} and dtype {dtype}")
    return np.ndarray(shape, dtype, buffer=body, order="F" if fortran else "C")


def _zip(members: Mapping[str, bytes], *, stored: set[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_STORED if name in stored else zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name])
    return buffer.getvalue()


def _sha256(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    if info.file_size > MAX_MEMBER_BYTES:
        raise ManifestError(
            f"{info.filename}: expected at most {MAX_MEMBER_BYTES} bytes, found {info.file_size}"
        )
    digest = hashlib.sha256()
    with archive.open(info) as member:
        while piece := member.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def _member(archive: zipfile.ZipFile, name: str, *, limit: int = _MAX_SMALL_MEMBER_BYTES) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ManifestError(
            f"not an artifact: expected a member {name!r}, found {archive.namelist()[:8]}"
        ) from None
    if info.file_size > limit:
        raise ManifestError(f"{name}: expected at most {limit} bytes, found {info.file_size}")
    return archive.read(info)
