"""The engines that this device has built: kept by content, each with the device's own attestation beside it.

    engines/  SHA256.engine  SHA256.json  timings/  build-*/

Rules:
- An engine is named by its digest. What it was built from and for stands in its attestation, which the
  device's key signs; one without an attestation that holds is none.
- It serves an artifact only while payload, driver script, profiles, TensorRT, CUDA driver, device, compute
  capability and L4T are those of its attestation.
- The folder is bounded: the engines that were used longest ago go first, those that a record names never.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.adapters import disk
from agent.adapters.builder import DRIVER, BuildOptions, EngineBuilder, OnProgress
from agent.core.records import ModelRecord
from agent.errors import DiskError, DiskFullError
from agent.serving.port import attestation_of
from fleet.artifact.package import Package
from fleet.errors import OutriderError
from fleet.wire.envelope import PublicKey, Signer, key_id
from ota.verify import artifact as verify
from ota.verify import engine as attestation
from ota.verify.artifact import VerifiedArtifact

SUFFIX: Final = ".engine"
MARGIN_BYTES: Final = 64 << 20
_KEPT_TIMINGS: Final = 16


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """An engine in the cache, and where it came from.

    Attributes:
        cached: whether it had been built before.
    """

    sha256: str
    size_bytes: int
    build_s: float
    environment: dict[str, Any]
    cached: bool

    @property
    def detail(self) -> str:
        """For a person."""
        on = self.environment
        how = "found in the cache" if self.cached else f"built in {self.build_s:.0f} s"
        return (
            f"engine {self.sha256[:12]} {how}: TensorRT {on.get('version')} on {on.get('device')} "
            f"(compute capability {on.get('compute_capability')}, {self.size_bytes >> 20} MiB)"
        )

    @property
    def figures(self) -> dict[str, float]:
        """For the report."""
        return {
            "engine_build_s": round(self.build_s, 3),
            "engine_size_bytes": float(self.size_bytes),
            "engine_cached": float(self.cached),
        }


class Engines:
    """The folder of engines.

    Args:
        folder: it is made when it is not there; what an interrupted build left is removed.
        builder: builds what is not there.
        signer: signs with the device's key.
        public: the device's public key.
        options: of every build.
        max_bytes: bound of the folder.
    """

    def __init__(
        self,
        folder: Path,
        builder: EngineBuilder,
        *,
        signer: Signer,
        public: PublicKey,
        options: BuildOptions,
        max_bytes: int,
    ) -> None:
        self._folder, self._builder = folder, builder
        self._signer, self._keys = signer, {key_id(public): public}
        self._options = msgspec.structs.replace(options, timings=str(folder / "timings"))
        self._max_bytes = max_bytes
        disk.make_dir(folder)
        for name in disk.names(folder):
            if name.startswith(("build-", "probe-", "source-")):
                shutil.rmtree(folder / name, ignore_errors=True)
            elif name.endswith(SUFFIX) and not attestation_of(folder / name).exists():
                disk.delete(folder / name)

    def path(self, sha256: str) -> Path:
        """Where an engine lies."""
        return self._folder / f"{sha256}{SUFFIX}"

    async def environment(self) -> dict[str, Any]:
        """What an engine that is built now would depend on.

        Raises:
            RuntimeMissingError, EngineError: TensorRT cannot be asked.
        """
        return await self._builder.probe(self._options.module)

    async def current(self, artifacts: Mapping[str, str]) -> tuple[dict[str, str], str]:
        """Which artifacts have an engine that fits this device now.

        Args:
            artifacts: sha256 of the engine, by that of the payload that it was built from.

        Returns:
            Of these the ones that hold, and why TensorRT could not be asked, empty when it could. Then every
            engine that is attested holds: loading it will tell, and a driver that comes up late costs no build.
        """
        if not artifacts:
            return {}, ""
        environment, problem = None, ""
        try:
            environment = await self._builder.probe(self._options.module)
        except OutriderError as error:
            problem = str(error)
        held = {
            payload: engine
            for payload, engine in artifacts.items()
            if self._fits(engine, payload, environment, None)
        }
        return held, problem

    async def make(
        self, artifact: VerifiedArtifact, keep: Collection[str], on_progress: OnProgress
    ) -> Made:
        """The engine of an artifact, from the cache or built now.

        Args:
            artifact: a verified one whose payload is an ONNX model.
            keep: engines that must not be removed to make room.
            on_progress: told the share that is done and what is being done.

        Raises:
            DiskError, RuntimeMissingError, EngineError: it cannot be had.
        """
        content = artifact.package
        payload = content.manifest.payload.sha256
        options = msgspec.structs.replace(self._options, profiles=profiles_of(content))
        environment = await self._builder.probe(options.module)
        for sha256 in self._held():
            if self._fits(sha256, payload, environment, options.profiles):
                os.utime(self.path(sha256))
                size = disk.size(self.path(sha256)) or 0
                return Made(
                    sha256=sha256, size_bytes=size, build_s=0.0, environment=environment, cached=True
                )  # fmt: skip
        self._make_room(len(content.payload) * 2 + MARGIN_BYTES, keep)
        with tempfile.TemporaryDirectory(prefix="source-", dir=self._folder) as name:
            onnx, engine = Path(name) / "model.onnx", Path(name) / "model.engine"
            disk.write_atomic(onnx, content.payload)
            built = await self._builder.build(onnx, engine, options, on_progress)
            self._prune_timings()
            signed = attestation.attest(
                self._signer,
                engine_sha256=built.sha256,
                payload_sha256=payload,
                tools={"driver": driver_sha256()},
                environment=built.environment,
                parameters={"profiles": options.profiles, "workspace_mib": options.workspace_mib},
            )
            disk.move(engine, self.path(built.sha256))
            disk.write_atomic(attestation_of(self.path(built.sha256)), signed)
        self._prune({*keep, built.sha256})
        return Made(
            sha256=built.sha256,
            size_bytes=built.size_bytes,
            build_s=built.build_s,
            environment=built.environment,
            cached=False,
        )

    def _held(self) -> list[str]:
        names = [name for name in disk.names(self._folder) if name.endswith(SUFFIX)]
        return [name.removesuffix(SUFFIX) for name in names]

    def _fits(
        self,
        sha256: str,
        payload: str,
        environment: Mapping[str, Any] | None,
        profiles: Mapping[str, Any] | None,
    ) -> bool:
        """Whether an engine is there, whole, attested for this payload, and fits; None fits all."""
        path = self.path(sha256)
        try:
            signed = disk.read(attestation_of(path))
            found = disk.sha256_of(path)
            if signed is None or found is None or found[0] != sha256:
                return False
            said = attestation.verify(
                signed, self._keys, engine_sha256=sha256, payload_sha256=payload
            ).predicate
            definition = said["buildDefinition"]
            drivers = [
                entry["digest"]["sha256"]
                for entry in definition["resolvedDependencies"]
                if entry["name"] == "driver"
            ]
            asked = definition["externalParameters"]["profiles"]
            built_for = said["runDetails"]["builder"]["version"]
        except (OutriderError, KeyError, TypeError):
            return False
        return (
            drivers == [driver_sha256()]
            and (environment is None or built_for == dict(environment))
            and (profiles is None or asked == dict(profiles))
        )

    # --- room ------------------------------------------------------------------------------------

    def _make_room(self, size_bytes: int, keep: Collection[str]) -> None:
        if disk.free_bytes(self._folder) < size_bytes:
            self._remove_oldest(keep, until=lambda: disk.free_bytes(self._folder) >= size_bytes)
        free = disk.free_bytes(self._folder)
        if free < size_bytes:
            raise DiskFullError(
                f"{self._folder}: expected {size_bytes} free bytes to build an engine, found {free}; make room"
            )

    def _prune(self, keep: Collection[str]) -> None:
        self._remove_oldest(keep, until=lambda: self._used() <= self._max_bytes)

    def _used(self) -> int:
        return sum(disk.size(self.path(sha256)) or 0 for sha256 in self._held())

    def _remove_oldest(self, keep: Collection[str], *, until: Any) -> None:
        def used_at(sha256: str) -> float:
            with contextlib.suppress(OSError):
                return self.path(sha256).stat().st_mtime
            return 0.0

        for sha256 in sorted(set(self._held()) - set(keep), key=used_at):
            if until():
                return
            disk.delete(self.path(sha256))
            disk.delete(attestation_of(self.path(sha256)))

    def _prune_timings(self) -> None:
        folder = Path(self._options.timings)
        files = [folder / name for name in disk.names(folder)]
        with contextlib.suppress(OSError, DiskError):
            for path in sorted(files, key=lambda path: path.stat().st_mtime)[:-_KEPT_TIMINGS]:
                disk.delete(path)


def engines_in_use(records: Iterable[ModelRecord]) -> set[str]:
    """The engines that records name; they are never removed to make room."""
    return {
        content.engine
        for record in records
        for content in (record.active, record.previous, record.candidate)
        if content is not None and content.engine
    }


def driver_sha256() -> str:
    """Digest of the driver script, which decides how engines are built."""
    return hashlib.sha256(DRIVER.read_bytes()).hexdigest()


def read(path: Path, *, sha256: str, length_bytes: int) -> VerifiedArtifact:
    """The artifact in a slot, as signed metadata names it.

    Raises:
        VerificationError, ManifestError, DiskError: it is not there, or it is another.
    """
    data = disk.read(path)
    if data is None:
        raise DiskError(f"{path}: expected an artifact, found no file")
    return verify.from_target(data, sha256=sha256, length_bytes=length_bytes)


def profiles_of(content: Package) -> dict[str, list[list[int]]]:
    """Shapes that an engine must take: one sample (what devices are asked most) up to the golden batch.

    Only the batch varies; other dimensions that the model leaves open are those of the golden vectors.
    """
    profiles = {}
    for spec in content.manifest.inputs:
        golden = content.golden_inputs.get(spec.name)
        if None not in spec.shape or golden is None:
            continue
        most = [int(n) for n in golden.shape]
        one = [1, *most[1:]] if spec.shape[0] is None else most
        profiles[spec.name] = [one, one, most]
    return profiles
