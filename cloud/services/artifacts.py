"""Artifacts: compiled files with their block lists, as blobs and rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from cloud.context import Context, Unit
from cloud.errors import InputError
from fleet.artifact import manifest as manifests
from fleet.artifact import package
from fleet.registry.repositories import Models
from fleet.registry.tables import Artifact
from ota.transfer import blocks


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact whose blobs are stored, before its row is."""

    sha256: str
    size_bytes: int
    block_size_bytes: int
    blocks_sha256: str
    blocks_length_bytes: int
    manifest: manifests.Manifest
    fallback: bool = False


def prepare(context: Context, data: bytes, *, fallbacks: Collection[str] = ()) -> Prepared:
    """Check an artifact's file and store it with its block list.

    Args:
        context: the cloud.
        data: the file.
        fallbacks: digests of what stands in for its target's first choice.

    Raises:
        ManifestError: the bytes are no artifact.
    """
    manifest = package.read(data).manifest
    block_size = blocks.choose_block_size(len(data))
    listed = blocks.block_list(data, block_size)
    sha256 = context.blobs.put(data)
    return Prepared(
        sha256=sha256,
        size_bytes=len(data),
        block_size_bytes=block_size,
        blocks_sha256=context.blobs.put(listed),
        blocks_length_bytes=len(listed),
        manifest=manifest,
        fallback=sha256 in fallbacks,
    )


def enter(
    unit: Unit, prepared: Prepared, *, model: str, version: str, result: dict[str, Any]
) -> Artifact:
    """Enter a prepared artifact into the registry; the same bytes keep their row.

    Raises:
        InputError: the manifest is of another model or version.
    """
    manifest = prepared.manifest
    if (manifest.model, manifest.version) != (model, version):
        raise InputError(
            f"expected an artifact of {model}@{version}, found one of {manifest.model}@{manifest.version}"
        )
    models = Models(unit.session)
    row = models.find_artifact(prepared.sha256)
    if row is not None:
        row.created_at, row.result, row.fallback = unit.now, result, prepared.fallback
        return row
    row = Artifact(
        sha256=prepared.sha256,
        model=model,
        version=version,
        target=manifest.target,
        runtime=manifest.runtime,
        runtime_version=manifest.runtime_version,
        hardware_classes=list(manifest.hardware_classes),
        recipe=manifest.recipe,
        status=manifest.status,
        evidence=manifest.evidence,
        size_bytes=prepared.size_bytes,
        block_size_bytes=prepared.block_size_bytes,
        blocks_sha256=prepared.blocks_sha256,
        blocks_length_bytes=prepared.blocks_length_bytes,
        manifest=msgspec.json.decode(manifests.encode(manifest)),
        result=result,
        created_at=unit.now,
        fallback=prepared.fallback,
    )
    models.add(row)
    return row
