"""Control flow: which backends cannot take a graph with branches and loops, and what to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OPERATORS: Final = ("If", "Loop", "Scan")
_REFUSED_BY: Final = {
    "litert": "the converter has no branches and loops, and writes files that do not run",
}
"""By toolchain, why it cannot take them. ONNX Runtime takes all; TensorRT builds `If` and `Loop` itself."""

_ADVICE: Final = (
    "export the model without them (trace instead of script, fixed shapes, no early exit), "
    "or compile for a target with ONNX Runtime"
)


def found(operators: Mapping[str, int]) -> list[str]:
    """The control flow among a model's operators."""
    return [name for name in OPERATORS if operators.get(name)]


def obstacle(operators: Mapping[str, int], toolchain: str) -> str:
    """Why a toolchain cannot take the model, and what to do; empty when it can try."""
    names = found(operators)
    reason = _REFUSED_BY.get(toolchain, "")
    if not names or not reason:
        return ""
    return f"expected a graph without control flow for {toolchain}, found {', '.join(names)}: {reason}; {_ADVICE}"


def notes(operators: Mapping[str, int]) -> list[str]:
    """For the report and for whoever pushes the model."""
    names = found(operators)
    if not names:
        return []
    return [
        f"contains {', '.join(names)}: {', '.join(_REFUSED_BY)} cannot take that, onnxruntime can; {_ADVICE}"
    ]
