"""Every name of TensorRT's API that the driver and the runtime use, found in their source."""

from __future__ import annotations

import ast
from pathlib import Path

import agent.runtimes

FOLDER = Path(agent.runtimes.__file__).parent
FILES = ("tensorrt_driver.py", "tensorrt.py")
RECEIVERS = {
    "trt": "module", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "engine": "ICudaEngine", "runtime": "Runtime",
    "context": "IExecutionContext", "inspector": "EngineInspector", "layer": "ILayer", "cache": "ITimingCache",
    "e": "ParserError", "t": "ITensor",
}  # fmt: skip
"""What the local names in both files stand for; the test holds that they are used for nothing else."""


def uses(file: str) -> set[tuple[str, str]]:
    """``(class, name)`` of each attribute that is read or set on something of TensorRT's."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / file).read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        value = node.value
        name = value.id if isinstance(value, ast.Name) else ""
        if isinstance(value, ast.Attribute):
            # `trt.DataType.FLOAT`, and `self._engine.name` in the runtime
            of_trt = isinstance(value.value, ast.Name) and value.value.id == "trt"
            if of_trt and not node.attr.startswith("__"):
                found.add((value.attr, node.attr))
            name = value.attr.lstrip("_")
        if (
            name in RECEIVERS
            and not node.attr.startswith("__")
            and not (name == "engine" and node.attr in {"find", "is_file"})
        ):
            found.add((RECEIVERS[name], node.attr))
    return found


USED = sorted({use for file in FILES for use in uses(file)})
