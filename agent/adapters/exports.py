"""Engines for twins on the real device: built by its builder, kept as long as the daemon runs, read in blocks.

Rule: the digest that is told is that of the file as it is read back, never one that the builder claims.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from agent.adapters.engines import Engines, engines_in_use, read
from agent.adapters.store import Store
from agent.core import commands as cmd
from agent.core import events as ev
from agent.errors import DiskError, NoBuilderError
from agent.runtimes import registry, tensorrt
from fleet.errors import OutriderError
from ota.verify.artifact import VerifiedArtifact


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """An engine in its file.

    Attributes:
        sha256: as the builder says.
        environment: what it depends on.
        host_code: whether it embeds code for the host's processor.
    """

    path: Path
    sha256: str
    environment: Mapping[str, str]
    host_code: bool


class Builder(Protocol):
    """Builds an engine on this device, or finds the one that it has built before."""

    async def build(self, artifact: VerifiedArtifact) -> Built:
        """The engine of a verified artifact's payload.

        Raises:
            OutriderError: there is none.
        """


class EngineExporter:
    """The builder over this device's own engines.

    Args:
        engines: where they are kept, and built when they are not there.
        store: tells which of them are in use.
    """

    def __init__(self, engines: Engines, store: Store) -> None:
        self._engines, self._store = engines, store

    async def build(self, artifact: VerifiedArtifact) -> Built:
        """See `Builder.build`. TensorRT's driver refuses engines with host code before they are kept."""
        if not tensorrt.builds(artifact.package.manifest):
            raise NoBuilderError(
                f"expected an ONNX model for tensorrt, found {artifact.package.manifest.payload.member} "
                f"for {artifact.package.manifest.runtime}; there is no engine to build"
            )
        records = await asyncio.to_thread(self._store.load_models)
        made = await self._engines.make(artifact, engines_in_use(records), lambda *_: None)
        return Built(
            path=self._engines.path(made.sha256),
            sha256=made.sha256,
            environment=said_of(made.environment),
            host_code=False,
        )


async def environment_of(engines: Engines) -> dict[str, str]:
    """What engines built here depend on, as a birth says it; empty where TensorRT cannot be asked."""
    if not registry.usable("tensorrt"):
        return {}
    try:
        return said_of(await engines.environment())
    except OutriderError:
        return {}


def said_of(environment: Mapping[str, Any]) -> dict[str, str]:
    """TensorRT's environment in the wire's words."""
    return {
        "device_name": str(environment.get("device", "")),
        "compute_capability": str(environment.get("compute_capability", "")),
        "l4t": str(environment.get("l4t", "")) or "none",
        "tensorrt": str(environment.get("version", "")),
        "cuda_driver": str(environment.get("cuda_driver", "")),
    }


class Exports:
    """Args: builder: of this device; None where it builds no engines."""

    def __init__(self, builder: Builder | None) -> None:
        self._builder = builder
        self._kept: dict[str, Path] = {}

    async def build(self, command: cmd.BuildForTwins, slot: Path) -> ev.EngineReady:
        """Build what was ordered.

        Raises:
            NoBuilderError: this device builds no engines.
            VerificationError: the slot no longer holds what was verified.
            DiskError: a file cannot be read.
        """
        if self._builder is None:
            raise NoBuilderError("expected a device that builds engines, this one has no builder")
        artifact = await asyncio.to_thread(
            read, slot, sha256=command.sha256, length_bytes=command.length_bytes
        )
        built = await self._builder.build(artifact)
        digest, length = await asyncio.to_thread(_digest, built.path)
        if digest != built.sha256:
            raise DiskError(
                f"expected the engine {built.sha256}, found {digest} in its file; build it again"
            )
        self._kept[digest] = built.path
        return ev.EngineReady(
            order=command.order,
            artifact=command.sha256,
            engine=digest,
            length_bytes=length,
            environment=dict(built.environment),
            host_code=built.host_code,
        )

    def read(self, command: cmd.ReadEngine, index: int) -> bytes:
        """One block. Raises DiskError."""
        path = self._kept.get(command.engine)
        if path is None:
            raise DiskError(f"expected an engine that is kept here, found {command.engine[:12]}")
        try:
            with path.open("rb") as file:
                file.seek(index * command.block_size_bytes)
                return file.read(command.block_size_bytes)
        except OSError as error:
            raise DiskError(f"{path}: cannot be read: {error.strerror}") from None


def _digest(path: Path) -> tuple[str, int]:
    try:
        digest, length = hashlib.sha256(), 0
        with path.open("rb") as file:  # `hashlib.file_digest` came with Python 3.11
            while chunk := file.read(1 << 20):
                digest.update(chunk)
                length += len(chunk)
        return digest.hexdigest(), length
    except OSError as error:
        raise DiskError(f"{path}: cannot be read: {error.strerror}") from None
