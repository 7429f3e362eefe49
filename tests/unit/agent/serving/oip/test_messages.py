"""Inference requests: every datatype, JSON and binary, and every way to get it wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.errors import TensorError
from agent.serving.oip import datatypes, messages
from agent.serving.oip.messages import InferAnswer, InferRequest

pytestmark = pytest.mark.agent

NUMBERS = [name for name in datatypes.NUMPY if name != "BYTES"]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


def request_of(array: np.ndarray, datatype: str, *, binary: bool, nested: bool = False):
    """Body and header length of a request with one input ``x``."""
    item = {"name": "x", "datatype": datatype, "shape": list(array.shape)}
    tail = b""
    if binary:
        tail = bytes(datatypes.to_binary(array))
        item["parameters"] = {"binary_data_size": len(tail)}
    else:
        flat = array if nested else array.ravel()
        item["data"] = json.loads(
            json.dumps(flat.tolist(), default=lambda value: value.decode("ascii"))
        )
    head = json.dumps({"id": "7", "inputs": [item]}).encode()
    return head + tail, str(len(head)).encode() if binary else None


def arrays(datatype: str) -> st.SearchStrategy[np.ndarray]:
    if datatype == "BYTES":
        texts = st.text("abc", max_size=5).map(str.encode)
        return hnp.arrays(object, SHAPES, elements=texts, fill=st.nothing())
    dtype = np.dtype(datatypes.NUMPY[datatype])
    if dtype.kind == "f":
        floats = st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
        return hnp.arrays(dtype, SHAPES, elements=floats)
    return hnp.arrays(dtype, SHAPES)


@pytest.mark.parametrize("datatype", datatypes.NUMPY)
@given(data=st.data(), binary=st.booleans(), nested=st.booleans())
def test_every_datatype_survives(datatype: str, data, binary: bool, nested: bool) -> None:
    array = data.draw(arrays(datatype))
    nested = nested and array.size > 0
    body, header_length = request_of(array, datatype, binary=binary, nested=nested)
    request = messages.decode_infer(bytearray(body), header_length)
    found = request.inputs["x"]
    assert request.id == "7"
    assert found.dtype == np.dtype(datatypes.NUMPY[datatype])
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("datatype", datatypes.NUMPY)
@given(data=st.data())
def test_binary_answers_read_back(datatype: str, data) -> None:
    array = data.draw(arrays(datatype))
    request = InferRequest(id="q", inputs={}, outputs=None, binary=True)
    response = messages.encode_infer(InferAnswer("m", "1", "q", {"y": array}), request)
    body = b"".join(bytes(part) for part in response.parts)
    length = int(response.headers[0].partition(b": ")[2])
    head = json.loads(body[:length])
    item = head["outputs"][0]
    assert (head["id"], head["model_name"], head["model_version"]) == ("q", "m", "1")
    assert item["parameters"]["binary_data_size"] == len(body) - length
    found = datatypes.from_binary("y", item["datatype"], item["shape"], memoryview(body)[length:])
    np.testing.assert_array_equal(found, array)


def test_json_answers_have_no_infinities() -> None:
    request = InferRequest(id="", inputs={}, outputs={"y": False}, binary=True)
    array = np.array([1.5, np.nan, np.inf], np.float32)
    response = messages.encode_infer(InferAnswer("m", "1", "", {"y": array, "z": array}), request)
    assert json.loads(b"".join(response.parts))["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [3], "data": [1.5, None, None]}
    ]


def test_outputs_are_as_they_were_asked_for() -> None:
    item = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    body = {
        "inputs": [item],
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
    }
    request = messages.decode_infer(json.dumps(body).encode(), None)
    assert request.outputs == {"a": True, "b": False}
    with pytest.raises(TensorError, match=r"expected outputs of \['a'\], found \['b'\]"):
        messages.encode_infer(InferAnswer("m", "1", "", {"a": np.zeros(1)}), request)


def one(**changes) -> dict:
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]} | changes


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (one(datatype="FP8"), "expected a datatype of BOOL"),
        (one(datatype="fp32"), "found 'fp32'"),
        (one(data=["a", "b"]), "expected data of datatype FP32"),
        (one(data=[1, 2, 3]), "expected 2 values for shape [2], found data of shape [3]"),
        (one(data=[[1, 2], [3, 4]]), "found data of shape [2, 2]"),
        (one(shape=[2, 2], data=[[1, 2], [3]]), "datatype FP32"),
        (one(shape=[4], data=[[1, 2], [3, 4]]), "expected 4 values for shape [4]"),
        (one(data=7), "found data of shape []"),
        (one(data=[]), "found data of shape [0]"),
        (one(shape=[-2]), "at least 0"),
        (one(shape=[1] * 40), "at most 32 dimensions"),
        (one(shape=[1 << 40, 1 << 40], data=[]), "expected 1208925819614629174706176 values"),
        (one(data=[1e39, 0]), "too large"),
        (one(datatype="FP16", data=[70000, 0]), "too large"),
        (one(datatype="UINT8", data=[256, 0]), "datatype UINT8"),
        (one(datatype="INT8", data=[-129, 0]), "datatype INT8"),
        (one(datatype="INT64", data=[1 << 63, 0]), "datatype INT64"),
        (one(datatype="UINT64", data=[-1, 0]), "datatype UINT64"),
        (one(datatype="INT32", data=[1.5, 0]), "datatype INT32"),
        (one(datatype="BOOL", data=[1, 0]), "datatype BOOL"),
        (one(datatype="BYTES", data=[1, 2]), "datatype BYTES"),
        (one(datatype="BYTES", shape=[2, 2], data=[["a", "b"], ["c"]]), "differ in length"),
        (one(parameters={"binary_data_size": 9}), "expected 9 bytes after the JSON, found 0"),
        (one(parameters={"binary_data_size": -1}), "a number of bytes, found -1"),
        (one(parameters={"binary_data_size": True}), "a number of bytes, found True"),
        (one(parameters={"shared_memory_region": "r"}), "shared memory is not offered"),
        ({"name": "x", "datatype": "FP32", "shape": [2]}, "expected data or binary_data_size"),
        ({"name": 3}, "expected an inference request as JSON"),
    ],
)
def test_wrong_inputs_are_named(item: dict, told: str) -> None:
    with pytest.raises(TensorError) as caught:
        messages.decode_infer(json.dumps({"inputs": [item]}).encode(), None)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("body", "length", "told"),
    [
        (b"", None, "inference request as JSON"),
        (b"[]", None, "inference request as JSON"),
        (b"{}", None, "missing required field `inputs`"),
        (b"{}", b"3", "a number up to 2"),
        (b"{}", b"-1", "found '-1'"),
        (b"{}", b"9" * 5000, "a number up to 2"),
        (b'{"inputs":[]}abc', b"13", "expected 13 bytes, JSON and binary inputs together, found 16"),
        (b'{"inputs":[],"outputs":[{"name":"p","parameters":{"classification":3}}]}', None, "not offered"),
        (json.dumps({"inputs": [one(), one()]}).encode(), None, "found it again"),
        (b'{"inputs":' + b"[" * 100_000, None, "inference request as JSON"),
    ],
)  # fmt: skip
def test_wrong_bodies_are_refused(body: bytes, length: bytes | None, told: str) -> None:
    with pytest.raises(TensorError) as caught:
        messages.decode_infer(bytearray(body), length)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "shape", "data"),
    [
        ("FP32", [2], b"1234567"),
        ("BOOL", [2], b"1"),
        ("BYTES", [2], b"\x01\x00\x00\x00a"),
        ("BYTES", [1], b"\x05\x00\x00\x00a"),
        ("BYTES", [1], b"\x01\x00\x00\x00ab"),
        ("BYTES", [1], b"\x01\x00"),
    ],
)
def test_wrong_binary_sizes_are_refused(datatype: str, shape: list[int], data: bytes) -> None:
    with pytest.raises(TensorError, match="input 'x'"):
        datatypes.from_binary("x", datatype, shape, memoryview(data))


@given(st.binary(max_size=300), st.one_of(st.none(), st.binary(max_size=6)))
def test_junk_is_refused(body: bytes, length: bytes | None) -> None:
    with pytest.raises(TensorError):
        messages.decode_infer(bytearray(body), length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(
    st.fixed_dictionaries(
        {
            "name": st.just("x"),
            "datatype": st.sampled_from([*datatypes.NUMPY, "?"]),
            "shape": st.lists(st.integers(-2, 3), max_size=3) | JSON,
            "data": JSON,
        },
        optional={"parameters": JSON},
    )
)
def test_near_requests_are_read_or_refused(item: dict) -> None:
    body = json.dumps({"inputs": [item]}).encode()
    try:
        found = messages.decode_infer(body, None).inputs["x"]
    except TensorError:
        return
    assert list(found.shape) == item["shape"]
