"""Inference requests and answers of the Open Inference Protocol v2, JSON and binary, as pure functions.

Source: https://github.com/kserve/open-inference-protocol (REST, inference) and its binary tensor data
extension: JSON first, ``Inference-Header-Content-Length`` bytes of it, then the tensors' bytes in the
order of the inputs; answers mirror it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import TensorError
from agent.serving.oip import datatypes
from agent.serving.oip.http import Part, Response

Array = NDArray[np.generic]
HEADER_LENGTH: Final = b"inference-header-content-length"


class _Input(msgspec.Struct, frozen=True):
    """One input, as it stands in the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw(b"")


class _Output(msgspec.Struct, frozen=True):
    """One output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct, frozen=True):
    """The JSON of an inference request."""

    inputs: list[_Input]
    id: str = ""
    parameters: dict[str, Any] = {}
    outputs: list[_Output] | None = None


@dataclass(frozen=True)
class InferRequest:
    """A parsed request.

    Attributes:
        id: what the caller calls it; comes back in the answer.
        inputs: arrays by name, as they were sent (raw, or the model's own tensors).
        outputs: whether each wanted output should be binary; None asks for all.
        binary: whether outputs are binary where nothing else is said.
    """

    id: str
    inputs: dict[str, Array]
    outputs: dict[str, bool] | None
    binary: bool


@dataclass(frozen=True)
class InferAnswer:
    """What the model answered."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, Array]


_DECODER = msgspec.json.Decoder(_Request)


def decode_infer(body: bytearray | bytes, header_length: bytes | None) -> InferRequest:
    """Parse the body of an inference request.

    Args:
        body: the whole body.
        header_length: value of ``Inference-Header-Content-Length``, None when the body is all JSON.

    Raises:
        TensorError: it is not such a request; the message says where.
    """
    split = _split(body, header_length)
    try:
        message = _DECODER.decode(memoryview(body)[:split])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise TensorError(f"expected an inference request as JSON: {error}") from None
    inputs: dict[str, Array] = {}
    position = split
    for item in message.inputs:
        if item.name in inputs:
            raise TensorError(f"input {item.name!r}: expected it once, found it again")
        size = _binary_size(item)
        inputs[item.name] = _tensor(item, size, memoryview(body)[position:])
        position += size or 0
    if position != len(body):
        raise TensorError(
            f"expected {position} bytes, JSON and binary inputs together, found {len(body)}"
        )
    binary = bool(message.parameters.get("binary_data_output", False))
    return InferRequest(
        id=message.id, inputs=inputs, outputs=_wanted(message, binary), binary=binary
    )


def encode_infer(answer: InferAnswer, request: InferRequest) -> Response:
    """The answer to a request: JSON, and binary outputs after it where they were asked for.

    Raises:
        TensorError: an output is asked for that the model does not have.
    """
    wanted = request.outputs or dict.fromkeys(answer.outputs, request.binary)
    unknown = sorted(set(wanted) - set(answer.outputs))
    if unknown:
        raise TensorError(f"expected outputs of {sorted(answer.outputs)}, found {unknown}")
    parts: list[Part] = []
    outputs = []
    for name, binary in wanted.items():
        array = answer.outputs[name]
        item: dict[str, Any] = {
            "name": name,
            "datatype": datatypes.DATATYPE[array.dtype.name],
            "shape": list(array.shape),
        }
        if binary:
            parts.append(datatypes.to_binary(array))
            item["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            item["data"] = datatypes.to_json(array)
        outputs.append(item)
    message = {"model_name": answer.model, "model_version": answer.version, "outputs": outputs}
    if request.id:
        message["id"] = request.id
    head = msgspec.json.encode(message)
    if not parts:
        return Response(200, [head])
    return Response(
        200,
        [head, *parts],
        content_type=b"application/octet-stream",
        headers=(HEADER_LENGTH + b": %d" % len(head),),
    )


def _split(body: bytearray | bytes, header_length: bytes | None) -> int:
    if header_length is None:
        return len(body)
    if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
        raise TensorError(
            f"Inference-Header-Content-Length: expected a number up to {len(body)}, the size of the body, "
            f"found {header_length[:40].decode('latin-1')!r}"
        )
    return int(header_length)


def _binary_size(item: _Input) -> int | None:
    size = item.parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise TensorError(
            f"input {item.name!r}: binary_data_size: expected a number of bytes, found {size!r:.40}"
        )
    return size


def _tensor(item: _Input, size: int | None, rest: memoryview) -> Array:
    if item.datatype not in datatypes.NUMPY:
        raise TensorError(
            f"input {item.name!r}: expected a datatype of {', '.join(datatypes.NUMPY)}, "
            f"found {item.datatype!r:.40}"
        )
    if "shared_memory_region" in item.parameters:
        raise TensorError(f"input {item.name!r}: expected its data, shared memory is not offered")
    if size is None:
        if not memoryview(item.data):
            raise TensorError(f"input {item.name!r}: expected data or binary_data_size, found none")
        return datatypes.from_json(item.name, item.datatype, item.shape, item.data)
    if size > len(rest):
        raise TensorError(
            f"input {item.name!r}: expected {size} bytes after the JSON, found {len(rest)}"
        )
    return datatypes.from_binary(item.name, item.datatype, item.shape, rest[:size])


def _wanted(message: _Request, binary: bool) -> dict[str, bool] | None:
    if not message.outputs:
        return None
    wanted = {}
    for item in message.outputs:
        refused = {"classification", "shared_memory_region"} & set(item.parameters)
        if refused:
            raise TensorError(
                f"output {item.name!r}: {sorted(refused)} is not offered, leave it out"
            )
        wanted[item.name] = bool(item.parameters.get("binary_data", binary))
    return wanted
