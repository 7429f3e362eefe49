"""What a worker hands in, for tests that need no compiler: a report, and the real artifact that it names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from support import artifacts as samples

from cloud.work.messages import Handed
from fleet.artifact import package


def handed(
    folder: Path,
    *targets: str,
    model: str = "digits",
    version: str = "1",
    rejected: tuple[str, ...] = (),
    **changes: Any,
) -> Handed:
    """Results for `targets`, of which some are rejected; `changes` are fields of the artifacts' manifests."""
    folder.mkdir(parents=True, exist_ok=True)
    results, files = [], []
    for target in targets:
        if target in rejected:
            results.append({"target": target, "status": "rejected", "chosen": None})
            continue
        fields = {"model": model, "version": version, "target": target} | changes
        data = package.write(samples.classify("classify.onnx", **fields))
        digest = hashlib.sha256(data).hexdigest()
        file = folder / digest
        file.write_bytes(data)
        files.append(file)
        chosen = {"recipe": "onnx_fp32", "sha256": digest, "path": file.name}
        results.append({"target": target, "status": "accepted", "chosen": chosen})
    report = {
        "model": {"name": model, "version": version},
        "targets": results,
        "host": {"node": "x"},
    }
    return Handed(report=report, files=files)
