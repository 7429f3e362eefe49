"""Datatypes of the Open Inference Protocol, and their numpy, JSON and binary forms.

Source: https://github.com/kserve/open-inference-protocol (tensor data types) and the binary tensor data
extension of the same protocol: little-endian, row-major, BYTES elements each with a 4-byte length.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.errors import TensorError

Array = NDArray[np.generic]

NUMPY: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "FP16": "float16",
        "FP32": "float32",
        "FP64": "float64",
        "BYTES": "object",
    }
)
"""numpy name per datatype; BYTES elements are Python bytes."""

DATATYPE: Final[Mapping[str, str]] = MappingProxyType({v: k for k, v in NUMPY.items()})
"""Datatype per numpy name."""

_ELEMENT: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "BOOL": bool,
        **{f"INT{n}": Annotated[int, Meta(ge=-(1 << n - 1), le=(1 << n - 1) - 1)] for n in (8, 16, 32)},
        **{f"UINT{n}": Annotated[int, Meta(ge=0, le=(1 << n) - 1)] for n in (8, 16, 32)},
        "INT64": int,
        "UINT64": Annotated[int, Meta(ge=0)],
        "FP16": float,
        "FP32": float,
        "FP64": float,
        "BYTES": str,
    }
)  # fmt: skip
_MAX_RANK = 32
_LENGTH = struct.Struct("<I")


def check_shape(name: str, shape: Sequence[int]) -> int:
    """Number of elements of a shape.

    Raises:
        TensorError: a negative dimension, or too many.
    """
    if len(shape) > _MAX_RANK or any(size < 0 for size in shape):
        raise TensorError(
            f"input {name!r}: expected at most {_MAX_RANK} dimensions of at least 0, found {list(shape)[:40]}"
        )
    return math.prod(shape)


def from_json(name: str, datatype: str, shape: Sequence[int], data: msgspec.Raw) -> Array:
    """An array from the ``data`` of a JSON request, flat or nested.

    Raises:
        TensorError: values that are not of the datatype, or not as many as the shape says.
    """
    expected = check_shape(name, shape)
    depth = _depth(data)
    kind: Any = _ELEMENT[datatype]
    for _ in range(depth):
        kind = list[kind]
    try:
        values = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TensorError(
            f"input {name!r}: expected data of datatype {datatype}: {error}"
        ) from None
    try:
        array = _array(values, datatype)
    except (ValueError, OverflowError) as error:
        raise TensorError(
            f"input {name!r}: expected data of datatype {datatype}: {error}"
        ) from None
    fits = array.size == expected and (depth == 1 or array.shape == tuple(shape))
    if depth == 0 or not fits:
        raise TensorError(
            f"input {name!r}: expected {expected} values for shape {list(shape)}, "
            f"found data of shape {list(array.shape)}"
        )
    return array.reshape(shape)


def from_binary(name: str, datatype: str, shape: Sequence[int], data: memoryview) -> Array:
    """An array over the bytes of the binary extension, without a copy where there need be none.

    Raises:
        TensorError: not as many bytes as the shape says.
    """
    expected = check_shape(name, shape)
    if datatype == "BYTES":
        return _split_bytes(name, expected, data).reshape(shape)
    dtype = np.dtype(NUMPY[datatype])
    if len(data) != expected * dtype.itemsize:
        raise TensorError(
            f"input {name!r}: expected {expected * dtype.itemsize} bytes for shape {list(shape)} "
            f"of {datatype}, found {len(data)}"
        )
    if datatype == "BOOL":
        return np.not_equal(np.frombuffer(data, np.uint8), 0).reshape(shape)
    return np.require(np.frombuffer(data, dtype), requirements=["C", "A"]).reshape(shape)


def to_binary(array: Array) -> memoryview:
    """The bytes of an array in the binary extension, without a copy where there need be none."""
    if array.dtype == object:
        items: list[bytes] = array.ravel().tolist()
        return memoryview(b"".join(_LENGTH.pack(len(item)) + item for item in items))
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def to_json(array: Array) -> list[Any]:
    """The flat values of an array; what is not finite has no JSON form and becomes null."""
    values: list[Any] = array.reshape(-1).tolist()
    if array.dtype == object:
        return [item.decode("utf-8", "replace") for item in values]
    return values


def _depth(data: msgspec.Raw) -> int:
    """How deeply the data is nested, at its first element."""
    depth = 0
    for byte in memoryview(data):
        if byte == ord("["):
            depth += 1
        elif byte not in b" \t\r\n":
            break
    return min(depth, _MAX_RANK)


def _array(values: Any, datatype: str) -> Array:
    if datatype == "BYTES":
        shape, flat = _flatten(values)
        array = np.empty(len(flat), object)
        array[:] = [item.encode() for item in flat]
        return array.reshape(shape)
    array = np.array(values, NUMPY[datatype] if datatype[0] != "F" else "float64")
    if datatype[0] == "F":
        with np.errstate(over="ignore"):
            array = array.astype(NUMPY[datatype])
        if not np.isfinite(array).all():
            raise ValueError("a number is too large for it")
    return array


def _flatten(values: Any) -> tuple[tuple[int, ...], list[str]]:
    """Shape and elements of nested lists of strings.

    numpy would take the strings apart or pad them, so that it is done here.
    """
    if isinstance(values, str):
        return (), [values]
    parts = [_flatten(value) for value in values]
    inner = {shape for shape, _ in parts}
    if len(inner) > 1:
        raise ValueError("the nested lists differ in length")
    shape = (len(values), *(inner.pop() if inner else ()))
    return shape, [item for _, items in parts for item in items]


def _split_bytes(name: str, expected: int, data: memoryview) -> Array:
    items = []
    position = 0
    while position + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        items.append(bytes(data[position : position + length]))
        position += length
    if position != len(data) or len(items) != expected:
        raise TensorError(
            f"input {name!r}: expected {expected} elements of BYTES, each after its 4-byte length, "
            f"found {len(items)} in {len(data)} bytes"
        )
    array = np.empty(len(items), object)
    array[:] = items
    return array
