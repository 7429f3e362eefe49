"""Loading an ONNX model that nobody vouches for.

Rules:
- A model is parsed, checked and upgraded by native code in a child process (`reading`) with limits on
  time and memory that follow the file's size: a crash, a hang or a bomb costs that process.
- Nothing here parses the file: what the child found comes back as plain data.
- The model's own bytes stay the reference; what is handed to backends may be upgraded, and parity
  gates judge the result.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from compiler.errors import ModelError
from compiler.toolchains import own
from compiler.toolchains.process import Limits
from fleet.artifact.manifest import TensorSpec

MAX_MODEL_BYTES: Final = (1 << 31) - 1
"""A protobuf message cannot be longer."""

MODEL: Final = "model.onnx"
UPGRADED: Final = "upgraded.onnx"
FOUND: Final = "found.json"
PROBLEM: Final = "problem.json"
UPGRADING: Final = "upgrading"

_MEMORY_MIB: Final = 1024
_MEMORY_FACTOR: Final = 12
"""Parsed, inlined, upgraded and written again: that many copies of the file, generously."""

_WALL_S: Final = 60.0
_WALL_S_PER_GIB: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A checked model.

    Attributes:
        data: the model as it came, in one file with its external data.
        upgraded: for backends: of opset `opset.UPGRADE_BELOW` at least, where the converter can do that.
        sha256: of the model file and, where there are any, of its external data.
        opset: of the model as it came.
        operators: how often each occurs, also in branches, loops and functions.
        notes: what was changed or could not be, and which backends cannot take the model.
    """

    data: bytes
    upgraded: bytes
    sha256: str
    opset: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    operators: dict[str, int]
    notes: list[str] = field(default_factory=list)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What the child says of the model; its bytes lie beside this."""

    sha256: str
    opset: int
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    operators: dict[str, int]
    notes: list[str]


def load(path: Path) -> OnnxModel:
    """Load and check a model.

    Raises:
        ModelError: damaged, hostile, or of a kind that no backend can take.
    """
    raw = read_file(path)
    with tempfile.TemporaryDirectory(prefix="outrider-model-") as name:
        work = Path(name)
        problem = _child(path, len(raw), work, upgrade=True)
        notes = []
        if problem and (work / UPGRADING).is_file():
            notes = [f"could not be upgraded: the converter {problem}"]
            problem = _child(path, len(raw), work, upgrade=False)
        if problem:
            raise ModelError(
                f"{path}: expected an ONNX model that can be checked, but the check {problem}; "
                "the file is damaged or hostile, export it again"
            )
        found = msgspec.json.decode((work / FOUND).read_bytes(), type=Found)
        data = (work / MODEL).read_bytes() if (work / MODEL).exists() else raw
        upgraded = (work / UPGRADED).read_bytes() if (work / UPGRADED).exists() else data
    return OnnxModel(
        data=data,
        upgraded=upgraded,
        sha256=found.sha256,
        opset=found.opset,
        inputs=found.inputs,
        outputs=found.outputs,
        operators=found.operators,
        notes=[*found.notes, *notes],
    )


def read_file(path: Path) -> bytes:
    """A model file's bytes.

    Raises:
        ModelError: it cannot be read, is empty, or longer than a model can be.
    """
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(f"{path}: expected at most {MAX_MODEL_BYTES} bytes, found {size}")
        if not path.is_file():
            raise ModelError(f"{path}: expected a file, found something else")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, found: {error.strerror}") from None
    if not data:
        raise ModelError(f"{path}: expected an ONNX model, found an empty file; export it again")
    return data


def _child(path: Path, size_bytes: int, work: Path, *, upgrade: bool) -> str:
    """Have the model read; returns how the child ended when it did not end well.

    Raises:
        ModelError: what the child says of the model.
    """
    beside_bytes = sum(f.stat().st_size for f in path.parent.iterdir() if f.is_file())
    mib = min(max(size_bytes, beside_bytes), 2 * MAX_MODEL_BYTES) >> 20
    wall_s = _WALL_S + _WALL_S_PER_GIB * mib / 1024
    arguments = [str(path.absolute()), str(path), *([] if upgrade else ["--keep"])]
    limits = Limits(wall_s=wall_s, cpu_s=2 * wall_s, memory_mib=_MEMORY_MIB + _MEMORY_FACTOR * mib)
    outcome = own.run("compiler.graph.reading", *arguments, folder=work, limits=limits)
    if (work / PROBLEM).is_file():
        raise ModelError(msgspec.json.decode((work / PROBLEM).read_bytes(), type=str))
    return outcome.problem
