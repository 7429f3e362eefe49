"""Loading an ONNX model that nobody vouches for.

Rules:
- Sizes are bounded before bytes are parsed, and what a file claims is held against what it has.
- External data must lie inside the model folder; it is inlined, so that one file is the whole model.
- Operators of domains that no runtime here implements are refused by name.
- The model's own bytes stay the reference; what is handed to backends may be upgraded, and parity
  gates judge the result.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import onnx.checker
import onnx.version_converter
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto

from compiler.errors import ModelError
from fleet.artifact.manifest import TensorSpec

MAX_MODEL_BYTES: Final = (1 << 31) - 1
"""A protobuf message cannot be longer."""

UPGRADE_BELOW: Final = 13
"""Per-channel QuantizeLinear came with opset 13."""

UPGRADE_TO: Final = 17
_MODERN_IR: Final = 8
MAX_TENSORS: Final = 64
_DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_DTYPES: Final[dict[int, str]] = {
    TensorProto.BOOL: "bool",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.FLOAT16: "float16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
}


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A checked model.

    Attributes:
        data: the model as it came, in one file with its external data.
        upgraded: for backends: of opset `UPGRADE_BELOW` at least, where the converter can do that.
        sha256: of the model file and, where there are any, of its external data.
        opset: of the model as it came.
        notes: what was changed or could not be.
    """

    data: bytes
    upgraded: bytes
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
    raw = _read(path)
    model = _parse(path, raw)
    digest = hashlib.sha256(raw)
    external = _inline_external(path, model)
    for data in external:
        digest.update(data)
    _check_tensors(path, model)
    operators = _operators(path, model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path}: expected a valid ONNX model, found: {_first_line(error)}"
        ) from None
    inputs, outputs = _signature(path, model.graph)
    upgraded, notes = _upgrade(model)
    return OnnxModel(
        data=model.SerializeToString(deterministic=True) if external else raw,
        upgraded=upgraded.SerializeToString(deterministic=True),
        sha256=digest.hexdigest(),
        opset=_opset(model),
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        notes=notes,
    )


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise ModelError(f"{path}: expected at most {MAX_MODEL_BYTES} bytes, found {size}")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: expected a readable file, found: {error.strerror}") from None
    if not data:
        raise ModelError(f"{path}: expected an ONNX model, found an empty file; export it again")
    return data


def _parse(path: Path, data: bytes) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError):
        raise ModelError(
            f"{path}: expected an ONNX model, found bytes that do not parse (damaged or truncated); export it again"
        ) from None
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{path}: expected an ONNX model with a graph, found none; export it again"
        )
    for text in _texts(model):
        if not isinstance(text, str):  # protobuf hands over bytes where a text is not UTF-8
            raise ModelError(
                f"{path}: expected names in UTF-8, found {text!r}; the file is damaged, export it again"
            )
    return model


def _texts(model: ModelProto) -> Iterator[object]:
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    for node in (*nodes, *(node for function in model.functions for node in function.node)):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
    for named in (*model.graph.input, *model.graph.output, *_tensors(model), *model.functions):
        yield named.name
    yield from (opset.domain for opset in model.opset_import)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    nodes = [node for function in model.functions for node in function.node]
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield sparse.values
            yield sparse.indices
        nodes += graph.node
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _inline_external(path: Path, model: ModelProto) -> list[bytes]:
    """Read external data into the model; returns what was read."""
    read: list[bytes] = []
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        data = _external(path, tensor)
        if sum(map(len, read)) + len(data) > MAX_MODEL_BYTES:
            raise ModelError(f"{path}: expected at most {MAX_MODEL_BYTES} bytes with external data")
        read.append(data)
        tensor.raw_data = data
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    return read


def _external(path: Path, tensor: TensorProto) -> bytes:
    where = f"{path}: tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    try:
        file = (folder / location).resolve()
        there = bool(location) and file.is_relative_to(folder) and file.is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise ModelError(
            f"{where}: expected external data in a file beside the model, found location {location!r}"
        )
    try:
        offset, size = int(entries.get("offset", "0")), file.stat().st_size
        length = int(entries.get("length", str(size - offset)))
    except ValueError:
        raise ModelError(f"{where}: expected whole numbers as offset and length") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelError(
            f"{where}: expected external data within {file.name} of {size} bytes, found {length} bytes at {offset}"
        )
    with file.open("rb") as stream:
        stream.seek(offset)
        data: bytes = stream.read(length)
    return data


def _check_tensors(path: Path, model: ModelProto) -> None:
    """What a tensor claims to hold is what it has."""
    for tensor in _tensors(model):
        if any(n < 0 for n in tensor.dims):
            raise ModelError(f"{path}: tensor {tensor.name!r}: expected dimensions of at least 0")
        bits = _BITS.get(int(tensor.data_type))
        if not tensor.HasField("raw_data") or bits is None:
            continue
        expected = math.ceil(math.prod(tensor.dims) * bits / 8)
        if len(tensor.raw_data) != expected:
            raise ModelError(
                f"{path}: tensor {tensor.name!r}: expected {expected} bytes for shape "
                f"{list(tensor.dims)}, found {len(tensor.raw_data)}; export the model again"
            )


_BITS: Final[dict[int, int]] = {
    TensorProto.BOOL: 8, TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16,
    TensorProto.UINT16: 16, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.INT32: 32, TensorProto.UINT32: 32, TensorProto.FLOAT: 32,
    TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.DOUBLE: 64,
}  # fmt: skip


def _operators(path: Path, model: ModelProto) -> dict[str, int]:
    """How often each operator occurs; custom operators are refused."""
    local = {(function.domain, function.name) for function in model.functions}
    found: dict[str, int] = {}
    nodes = [node for graph in _graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    for node in nodes:
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in _DOMAINS:
            raise ModelError(
                f"{path}: node {node.name!r}: expected standard ONNX operators, found the custom operator "
                f"{node.op_type!r} of domain {node.domain!r}; export the model without it"
            )
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return dict(sorted(found.items()))


def _signature(path: Path, graph: GraphProto) -> tuple[list[TensorSpec], list[TensorSpec]]:
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [_spec(path, info, "input") for info in graph.input if info.name not in constants]
    outputs = [_spec(path, info, "output") for info in graph.output]
    for what, specs in (("inputs", inputs), ("outputs", outputs)):
        if not 1 <= len(specs) <= MAX_TENSORS:
            raise ModelError(f"{path}: expected 1 to {MAX_TENSORS} {what}, found {len(specs)}")
    return inputs, outputs


def _spec(path: Path, info: ValueInfoProto, what: str) -> TensorSpec:
    where = f"{path}: {what} {info.name!r}"
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(f"{where}: expected a tensor, found {kind or 'no type'}")
    dtype = _DTYPES.get(int(info.type.tensor_type.elem_type))
    if dtype is None:
        found = info.type.tensor_type.elem_type
        raise ModelError(
            f"{where}: expected one of {', '.join(_DTYPES.values())}, found element type {found}"
        )
    if not info.type.tensor_type.HasField("shape"):
        if what == "input":
            raise ModelError(f"{where}: expected a shape, found none; export the model with one")
        return TensorSpec(name=info.name, dtype=dtype, shape=[])
    dims = [
        int(dim.dim_value) if dim.HasField("dim_value") else None
        for dim in info.type.tensor_type.shape.dim
    ]
    if any(n is not None and n < (1 if what == "input" else 0) for n in dims):
        raise ModelError(f"{where}: expected dimensions of at least 1, found {dims}")
    return TensorSpec(name=info.name, dtype=dtype, shape=dims)


def _upgrade(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """The model in a form that today's tools take, and what was done."""
    opset = _opset(model)
    if opset >= UPGRADE_BELOW and model.ir_version >= _MODERN_IR:
        return model, []
    notes = []
    modern = ModelProto()
    modern.CopyFrom(model)
    try:
        if opset < UPGRADE_BELOW:
            modern = onnx.version_converter.convert_version(modern, UPGRADE_TO)
            notes.append(f"opset {opset} upgraded to {UPGRADE_TO}")
        _modernise(modern)
        onnx.checker.check_model(modern)
    except Exception as error:  # noqa: BLE001 - native code; whatever it says, the model stays as it is
        return model, [f"opset {opset} could not be upgraded: {_first_line(error)}"]
    return modern, notes


def _modernise(model: ModelProto) -> None:
    """Constants are no inputs: before IR version 4 each had to be listed as one, which tools trip over."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _MODERN_IR)


def _opset(model: ModelProto) -> int:
    return max(
        (int(o.version) for o in model.opset_import if o.domain in {"", "ai.onnx"}), default=0
    )


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
