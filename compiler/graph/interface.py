"""A graph's inputs and outputs, as the manifest will carry them."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from onnx import GraphProto, TensorProto, ValueInfoProto

from compiler.errors import ModelError
from compiler.graph.onnx_model import MAX_MODEL_BYTES
from compiler.graph.tensors import MAX_RANK
from fleet.artifact.manifest import TensorSpec

MAX_TENSORS: Final = 64
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


def specs(where: str, graph: GraphProto) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """The inputs that an application feeds, and the outputs.

    Raises:
        ModelError: none or too many, no tensors, of a type or shape that nothing can be fed with.
    """
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {sparse.values.name for sparse in graph.sparse_initializer}
    inputs = [_spec(where, info, "input") for info in graph.input if info.name not in constants]
    outputs = [_spec(where, info, "output") for info in graph.output]
    for what, found in (("inputs", inputs), ("outputs", outputs)):
        if not 1 <= len(found) <= MAX_TENSORS:
            raise ModelError(f"{where}: expected 1 to {MAX_TENSORS} {what}, found {len(found)}")
    return inputs, outputs


def _spec(where: str, info: ValueInfoProto, what: str) -> TensorSpec:
    named = f"{where}: {what} {info.name!r}"
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(f"{named}: expected a tensor, found {kind or 'no type'}")
    dtype = _DTYPES.get(int(info.type.tensor_type.elem_type))
    if dtype is None:
        number = info.type.tensor_type.elem_type
        known = number in TensorProto.DataType.values()
        found = TensorProto.DataType.Name(number).lower() if known else f"element type {number}"
        raise ModelError(f"{named}: expected one of {', '.join(_DTYPES.values())}, found {found}")
    if not info.type.tensor_type.HasField("shape"):
        raise ModelError(
            f"{named}: expected a shape, found none; export the model with one, dimensions may have names"
        )
    dims = [
        int(dim.dim_value) if dim.HasField("dim_value") else None
        for dim in info.type.tensor_type.shape.dim
    ]
    _check_dims(named, dims, dtype, least=1 if what == "input" else 0)
    return TensorSpec(name=info.name, dtype=dtype, shape=dims)


def _check_dims(named: str, dims: list[int | None], dtype: str, *, least: int) -> None:
    if len(dims) > MAX_RANK:
        raise ModelError(f"{named}: expected at most {MAX_RANK} dimensions, found {len(dims)}")
    if any(n is not None and n < least for n in dims):
        raise ModelError(f"{named}: expected dimensions of at least {least}, found {dims}")
    size = math.prod(n for n in dims if n is not None) * np.dtype(dtype).itemsize
    if size > MAX_MODEL_BYTES:
        raise ModelError(
            f"{named}: expected at most {MAX_MODEL_BYTES} bytes, found shape {dims} of {size}; no device "
            "has room for that"
        )
