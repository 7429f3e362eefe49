"""``python -m cloud.services.foldercheck DIR``: read a model folder and print what it says, as JSON.

It runs in a process of its own, because the file that it reads comes from outside.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from compiler.evaluate import evaluation
from compiler.graph import folder as folders
from compiler.graph import onnx_model, signature
from fleet.errors import OutriderError


def describe(path: Path) -> dict[str, Any]:
    """What the folder and the model in it say of themselves.

    Raises:
        OutriderError: they are wrong.
    """
    folder = folders.load(path)
    model = onnx_model.load(folder.model)
    inputs = signature.input_specs(folder, model.inputs)
    evaluation.check(folder, model, inputs)
    return {
        "name": folder.name,
        "author_version": folder.version,
        "task": folder.task,
        "licence": folder.licence,
        "metric": {"name": folder.metric.name, "budget": folder.metric.budget},
        "model_size_bytes": folder.model.stat().st_size,
        "model_sha256": model.sha256,
        "opset": model.opset,
        "inputs": msgspec.to_builtins(inputs),
        "outputs": msgspec.to_builtins(model.outputs),
        "notes": model.notes,
    }


def main(arguments: list[str]) -> None:
    """Print ``{"folder": {...}}`` or ``{"error": "..."}``."""
    try:
        answer: dict[str, Any] = {"folder": describe(Path(arguments[0]))}
    except OutriderError as error:
        answer = {"error": str(error)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
