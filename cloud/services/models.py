"""Model versions: uploaded folders, checked, numbered, stored by digest.

Rules:
- The same content is the same version: pushing it again changes nothing.
- Versions are counted up per model; a ``version`` in the folder is a note of its author's.
- A folder is checked in a process of its own: a model file that crashes its reader costs that process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cloud.audit import log
from cloud.context import Context
from cloud.errors import InputError
from cloud.services import folders
from fleet.registry.repositories import Models
from fleet.registry.tables import ModelVersion

CHECK_TIMEOUT_S = 120.0


def push(context: Context, archive: Path, *, by: str) -> ModelVersion:
    """Check an uploaded model folder and store it as a version.

    Args:
        context: the cloud.
        archive: a file with the folder as a ZIP archive, ``outrider.toml`` at its top or in its only folder.
        by: who pushes.

    Raises:
        InputError: the archive or the model folder in it is wrong; the message says where.
    """
    with tempfile.TemporaryDirectory(prefix="outrider-push-") as name:
        files = folders.extract(archive, Path(name))
        root = folders.root_of(Path(name))
        digest = folders.digest_of(files, below=root.relative_to(name).as_posix())
        description = check(root)
    blob = context.blobs.put_file(archive)
    size_bytes = archive.stat().st_size
    model = str(description["name"])
    with context.unit() as unit:
        models = Models(unit.session)
        known = models.version_by_content(model, digest)
        if known is not None:
            return known
        number = models.highest_number(model) + 1
        row = ModelVersion(
            model=model,
            version=str(number),
            number=number,
            folder_sha256=digest,
            archive_sha256=blob,
            size_bytes=size_bytes,
            description=description,
            created_at=unit.now,
            created_by=by,
        )
        models.add(row)
        log.record(unit, actor=by, action="model.push", subject=f"{model}@{number}", sha256=digest)
        unit.publish("model", model=model, version=row.version)
    return row


def check(folder: Path) -> dict[str, Any]:
    """What a model folder says of itself.

    Raises:
        InputError: it is wrong.
    """
    command = [sys.executable, "-m", "cloud.services.foldercheck", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=CHECK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(
            f"the model folder was not read within {CHECK_TIMEOUT_S:.0f} s; is the model well-formed?"
        ) from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise InputError(
            f"reading the model folder ended with exit status {done.returncode}; is the model well-formed?"
        ) from None
    if "error" in answer:
        raise InputError(str(answer["error"]).replace(f"{folder}/", "").replace(str(folder), "."))
    description: dict[str, Any] = answer["folder"]
    return description


def unpack(context: Context, version: ModelVersion, into: Path) -> Path:
    """Write a version's folder below `into`, which must be empty; returns where ``outrider.toml`` is."""
    folders.extract(context.blobs.path(version.archive_sha256), into)
    return folders.root_of(into)
