"""Tensors that a model file holds: what each claims is held against what it has.

Rule: sizes are worked out in whole numbers of any length before memory is taken for a single element.
"""

from __future__ import annotations

import math
from typing import Final

from onnx import ModelProto, SparseTensorProto, TensorProto

from compiler.errors import ModelError
from compiler.graph import walk
from compiler.graph.onnx_model import MAX_MODEL_BYTES

MAX_RANK: Final = 64
_BITS: Final[dict[int, int]] = {
    TensorProto.BOOL: 8, TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT16: 16,
    TensorProto.UINT16: 16, TensorProto.FLOAT16: 16, TensorProto.BFLOAT16: 16,
    TensorProto.INT32: 32, TensorProto.UINT32: 32, TensorProto.FLOAT: 32,
    TensorProto.INT64: 64, TensorProto.UINT64: 64, TensorProto.DOUBLE: 64,
    TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128, TensorProto.INT4: 4, TensorProto.UINT4: 4,
    TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.FLOAT4E2M1: 4,
}  # fmt: skip
_FIELDS: Final = (
    "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data",
)  # fmt: skip
_PARTS: Final[dict[int, int]] = {TensorProto.COMPLEX64: 2, TensorProto.COMPLEX128: 2}
"""Entries of a typed field per element, where it is not one."""


def expected_bytes(tensor: TensorProto) -> int | None:
    """How many bytes the tensor's elements take; None for texts and types that are not known."""
    bits = _BITS.get(int(tensor.data_type))
    return None if bits is None else math.ceil(math.prod(tensor.dims) * bits / 8)


def check_shapes(where: str, model: ModelProto) -> None:
    """Hold every shape against what a model can be.

    Raises:
        ModelError: a negative, deep or huge shape, or a type that does not exist.
    """
    for tensor in walk.tensors(model):
        named = f"{where}: tensor {tensor.name!r}"
        _check_dims(named, list(tensor.dims))
        if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
            raise ModelError(
                f"{named}: expected a known element type, found {tensor.data_type}; export it again"
            )
        size = expected_bytes(tensor)
        if size is not None and size > MAX_MODEL_BYTES:
            raise ModelError(
                f"{named}: expected at most {MAX_MODEL_BYTES} bytes, found shape {list(tensor.dims)} of {size}"
            )
    for graph in walk.graphs(model):
        for sparse in graph.sparse_initializer:
            _check_sparse(where, sparse)


def check_contents(where: str, model: ModelProto) -> None:
    """Hold every tensor's elements against its shape; external data have been inlined.

    Raises:
        ModelError: too few or too many of them.
    """
    for tensor in walk.tensors(model):
        named = f"{where}: tensor {tensor.name!r}"
        if tensor.HasField("raw_data"):
            expected = expected_bytes(tensor)
            if expected is None or len(tensor.raw_data) == expected:
                continue
            raise ModelError(
                f"{named}: expected {expected} bytes for shape {list(tensor.dims)}, "
                f"found {len(tensor.raw_data)}; export the model again"
            )
        _check_typed(named, tensor)


def _check_typed(named: str, tensor: TensorProto) -> None:
    counts = {name: len(getattr(tensor, name)) for name in _FIELDS}
    used = [name for name, count in counts.items() if count]
    if len(used) > 1:
        raise ModelError(f"{named}: expected its elements in one field, found {', '.join(used)}")
    bits = _BITS.get(int(tensor.data_type), 8)
    wanted = math.prod(tensor.dims) * _PARTS.get(int(tensor.data_type), 1)
    found = counts[used[0]] if used else 0
    packed = math.ceil(wanted * bits / 8)
    if found != wanted and not (bits < 8 and found == packed):
        raise ModelError(
            f"{named}: expected {wanted} elements for shape {list(tensor.dims)}, found {found}; "
            "export the model again"
        )


def _check_sparse(where: str, sparse: SparseTensorProto) -> None:
    named = f"{where}: sparse tensor {sparse.values.name!r}"
    dims = list(sparse.dims)
    _check_dims(named, dims)
    bits = _BITS.get(int(sparse.values.data_type), 8)
    size = math.prod(dims) * bits // 8
    if size > MAX_MODEL_BYTES:
        raise ModelError(
            f"{named}: expected at most {MAX_MODEL_BYTES} bytes when it is dense, found shape {dims} of {size}"
        )


def _check_dims(named: str, dims: list[int]) -> None:
    if len(dims) > MAX_RANK:
        raise ModelError(f"{named}: expected at most {MAX_RANK} dimensions, found {len(dims)}")
    if any(n < 0 for n in dims):
        raise ModelError(f"{named}: expected dimensions of at least 0, found {dims}")
