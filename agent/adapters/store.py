"""The state directory: what is where. Every byte goes through `agent.adapters.disk`.

    identity/   key.pem  enrolment.json
    trust/      store
    device      ports
    engines/    see agent.adapters.engines
    models/M/   state  slots/a/artifact.outrider  slots/b/artifact.outrider
    downloads/  SHA256.part  SHA256.bitmap

Rules:
- A model's name and a digest are checked before they become a path.
- The bitmap is saved after the blocks that it stands for are durable.
- A slot is filled by one rename, after the bytes were hashed where they lie.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.adapters import disk
from agent.adapters.identity import Enrolment
from agent.core.commands import Stage
from agent.core.records import SLOTS, DeviceRecord, ModelRecord
from agent.errors import DamagedError, DiskError
from fleet.artifact import manifest as manifests
from fleet.artifact import package
from fleet.artifact.manifest import Manifest
from fleet.errors import ManifestError
from fleet.wire.topics import check_id
from ota.errors import DigestError, MetadataError, UnattestedError, VerificationError
from ota.verify import attestation, trust
from ota.verify.trust import TrustStore

T = TypeVar("T")
MARGIN_BYTES = 8 << 20
ARTIFACT = "artifact.outrider"
_MAX_MANIFEST_BYTES = 16 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


class Kept(msgspec.Struct, frozen=True):
    """What is kept of a download: the bytes of its block list, and which blocks are durable."""

    block_list: bytes = b""
    bitmap: bytes = b""


class Store:
    """A state directory.

    Args:
        root: the folder; it is made when it is not there.

    Attributes:
        notes: ``(code, text)`` of what was mended while reading.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[tuple[str, str]] = []
        self._open_part: disk.Part | None = None
        for name in ("identity", "trust", "models", "downloads"):
            disk.make_dir(root / name)

    # --- records ---------------------------------------------------------------------------------

    def load_trust(self, enrolment: Enrolment) -> tuple[TrustStore, TrustStore]:
        """The trust store, and the one that the device was enrolled with."""
        enrolled = trust.initial(enrolment.image_root, enrolment.director_root, now=enrolment.now)
        try:
            found = disk.read_checked(self.root / "trust" / "store")
            if found is None:
                return enrolled, enrolled
            self._note("trust.mended", found[1])
            return trust.from_bytes(found[0]), enrolled
        except (DamagedError, VerificationError) as error:
            self._note("trust.damaged", str(error))
            return enrolled, enrolled

    def save_trust(self, store: TrustStore) -> None:
        """Persist the trust store."""
        disk.write_checked(self.root / "trust" / "store", trust.to_bytes(store))

    def load_device(self) -> DeviceRecord:
        """The device's record; a new one where there is none."""
        return self._load(self.root / "device", DeviceRecord) or DeviceRecord()

    def save_device(self, record: DeviceRecord) -> None:
        """Persist the device's record."""
        disk.write_checked(self.root / "device", msgspec.json.encode(record))

    def load_ports(self) -> dict[str, int]:
        """The port on which each model is served."""
        return self._load(self.root / "ports", dict[str, int]) or {}

    def save_ports(self, ports: dict[str, int]) -> None:
        """Persist the ports."""
        disk.write_checked(self.root / "ports", msgspec.json.encode(ports))

    def load_models(self) -> list[ModelRecord]:
        """Each model's record; one that is damaged beyond mending is begun anew."""
        records = []
        for name in disk.names(self.root / "models"):
            folder = self._model(name)
            record = self._load(folder / "state", ModelRecord) or ModelRecord(model=name)
            records.append(record if record.model == name else ModelRecord(model=name))
        return records

    def save_model(self, record: ModelRecord) -> None:
        """Persist a model's record."""
        folder = self._model(record.model)
        disk.make_dir(folder)
        disk.write_checked(folder / "state", msgspec.json.encode(record))

    def _load(self, path: Path, kind: type[T]) -> T | None:
        try:
            found = disk.read_checked(path)
            if found is None:
                return None
            self._note("disk.mended", found[1])
            return msgspec.json.decode(found[0], type=kind)
        except (DamagedError, msgspec.DecodeError) as error:
            self._note(DamagedError.code, f"{path}: {error}; begun anew")
            return None

    def _note(self, code: str, text: str) -> None:
        if text:
            self.notes.append((code, text))

    # --- slots -----------------------------------------------------------------------------------

    def slot_path(self, model: str, slot: str) -> Path:
        """Where a slot's artifact lies."""
        if slot not in SLOTS:
            raise ValueError(f"no slot {slot!r}")
        return self._model(model) / "slots" / slot / ARTIFACT

    def hash_slots(self) -> dict[str, dict[str, str]]:
        """Digest of what each slot holds, by model and slot."""
        found: dict[str, dict[str, str]] = {}
        for model in disk.names(self.root / "models"):
            hashed = {slot: disk.sha256_of(self.slot_path(model, slot)) for slot in SLOTS}
            found[model] = {slot: digest[0] for slot, digest in hashed.items() if digest}
        return found

    def manifest(self, model: str, slot: str) -> Manifest:
        """The manifest of the artifact in a slot, without its payload.

        Raises:
            ManifestError: there is none.
        """
        path = self.slot_path(model, slot)
        try:
            with disk.reading(path) as file, zipfile.ZipFile(file) as archive:
                info = archive.getinfo("manifest.json")
                if info.file_size > _MAX_MANIFEST_BYTES:
                    raise ManifestError(f"{path}: its manifest is too large")
                return manifests.decode(archive.read(info))
        except (DiskError, zipfile.BadZipFile, KeyError, NotImplementedError, EOFError) as error:
            raise ManifestError(f"{path}: expected an artifact, found {error}") from None

    def payload_sha256(self, model: str, slot: str) -> str:
        """Digest of the payload of the artifact in a slot, as its manifest says; empty where there is none."""
        try:
            return self.manifest(model, slot).payload.sha256
        except (ManifestError, ValueError):
            return ""

    # --- downloads -------------------------------------------------------------------------------

    def prepare(self, sha256: str, length_bytes: int) -> Kept:
        """Make room for a blob; what is kept of an earlier attempt.

        Raises:
            DiskFullError: it does not fit.
        """
        part, bitmap = self._download(sha256, ".part"), self._download(sha256, ".bitmap")
        kept = Kept()
        self.let_go()
        if disk.size(part) == length_bytes:
            try:
                found = disk.read_checked(bitmap)
                kept = msgspec.msgpack.decode(found[0], type=Kept) if found else Kept()
            except (DamagedError, msgspec.DecodeError) as error:
                self._note(DamagedError.code, f"{bitmap}: {error}; fetched anew")
        disk.reserve(part, length_bytes, margin=MARGIN_BYTES)
        return kept

    def write_block(self, sha256: str, offset: int, data: bytes) -> None:
        """Write fetched bytes."""
        path = self._download(sha256, ".part")
        if self._open_part is None or self._open_part.path != path:
            self.let_go()
            self._open_part = disk.Part(path)
        self._open_part.write(offset, data)

    def let_go(self) -> None:
        """Close the file that is being fetched, where one is open."""
        part, self._open_part = self._open_part, None
        if part is not None:
            part.close()

    def save_bitmap(self, sha256: str, kept: Kept) -> None:
        """Make the blocks durable, then say which they are."""
        disk.sync(self._download(sha256, ".part"))
        disk.write_checked(self._download(sha256, ".bitmap"), msgspec.msgpack.encode(kept))

    def stage(self, command: Stage) -> Manifest:
        """Hash a blob, see that one of the hosts that may has attested it, and have it in its slot.

        What was fetched and does not hold is deleted; the slot then keeps what it had.

        Raises:
            DigestError: the bytes are not those.
            UnattestedError: they are, and nobody whom the release names vouches for them.
            ManifestError: they are, and are no artifact.
        """
        path, sha256 = self.slot_path(command.model, command.slot), command.sha256
        self.let_go()
        source = self._download(sha256, ".part") if command.fetched else path
        found = disk.sha256_of(source)
        if found != (sha256, command.length_bytes):
            disk.delete(source)
            if command.fetched:
                self.forget(sha256)
            raise DigestError(
                f"expected {command.length_bytes} bytes with sha256 {sha256}, found "
                f"{f'{found[1]} bytes with {found[0]}' if found else 'no file'}; fetched again"
            )
        try:
            _check_attestation(source, command.attested_by)
        except (UnattestedError, ManifestError):
            if command.fetched:
                self.forget(sha256)
            raise
        if command.fetched:
            disk.sync(source)
            disk.move(source, path)
            self.forget(sha256)
        return self.manifest(command.model, command.slot)

    def download_path(self, sha256: str) -> Path:
        """Where a blob that is being fetched lies."""
        return self._download(sha256, ".part")

    def discard(self, keep: list[str]) -> None:
        """Delete what is left of downloads other than these."""
        self.let_go()
        for name in disk.names(self.root / "downloads"):
            if name.partition(".")[0] not in keep:
                disk.delete(self.root / "downloads" / name)

    def forget(self, sha256: str) -> None:
        """Delete what is left of a download."""
        for suffix in (".part", ".bitmap", ".bitmap.before"):
            disk.delete(self._download(sha256, suffix))

    def _download(self, sha256: str, suffix: str) -> Path:
        if not _DIGEST.match(sha256):
            raise ValueError(f"expected a sha256 in hex, found {sha256!r}")
        return self.root / "downloads" / f"{sha256}{suffix}"

    def _model(self, model: str) -> Path:
        return self.root / "models" / check_id(model, what="model")


def _check_attestation(path: Path, attested_by: list[str]) -> None:
    if not attested_by:
        raise UnattestedError(
            "expected the release to name who attested its artifacts, found a release of before devices "
            "checked that; create the release again, or push the model as a new version"
        )
    with disk.reading(path) as file:
        found = package.digests(file)
    try:
        keys = attestation.public_keys(attested_by)
    except MetadataError as error:
        raise UnattestedError(f"release: attested_by: {error}") from None
    attestation.vouched(found.attestation, found.members, keys)
