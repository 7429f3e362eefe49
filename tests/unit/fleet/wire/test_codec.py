from __future__ import annotations

import contextlib

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import KINDS, messages

from fleet.errors import WireError
from fleet.wire import codec, schema
from fleet.wire.messages import Ack, Block, Reported, Request

VALIDATORS = {
    kind: jsonschema.Draft202012Validator(
        {**schema.json_schema(), "$ref": f"#/$defs/{kind.__name__}"}
    )
    for kind in KINDS
}
any_message = st.sampled_from(KINDS).flatmap(messages)


@given(any_message)
def test_json_gives_the_message_back(message):
    assert codec.from_json(type(message), codec.to_json(message)) == message


@given(any_message)
def test_messagepack_gives_the_message_back(message):
    assert codec.from_msgpack(type(message), codec.to_msgpack(message)) == message


@given(any_message)
def test_what_is_sent_as_json_fits_the_published_schema(message):
    VALIDATORS[type(message)].validate(msgspec.json.decode(codec.to_json(message)))


@given(any_message, st.dictionaries(st.text("_xyz", min_size=1), st.none() | st.integers(0, 9)))
def test_unknown_fields_are_ignored(message, extra):
    document = {**extra, **msgspec.json.decode(codec.to_json(message))}
    assert codec.from_json(type(message), msgspec.json.encode(document)) == message


@given(st.sampled_from(KINDS), st.binary(max_size=80))
def test_rubbish_is_refused_as_malformed(kind, data):
    for decode in (codec.from_json, codec.from_msgpack):
        with pytest.raises(WireError):
            decode(kind, data)


@given(any_message, st.data())
def test_damaged_bytes_raise_nothing_but_wire_errors(message, data):
    for encode, decode in (
        (codec.to_json, codec.from_json),
        (codec.to_msgpack, codec.from_msgpack),
    ):
        encoded = bytearray(encode(message))
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position] = data.draw(st.integers(0, 255))
        with contextlib.suppress(WireError):
            assert isinstance(decode(type(message), bytes(encoded)), type(message))


@given(any_message, st.data())
def test_a_cut_message_is_refused(message, data):
    encoded = codec.to_json(message)
    with pytest.raises(WireError):
        codec.from_json(type(message), encoded[: data.draw(st.integers(0, len(encoded) - 1))])


def test_deep_nesting_is_refused_without_a_crash():
    with pytest.raises(WireError):
        codec.from_json(Ack, b'{"device":"d","acked":' + b"[" * 100_000)
    with pytest.raises(WireError):
        codec.from_msgpack(Ack, b"\x81\xa5acked" + b"\x91" * 100_000)


def test_too_long_a_message_is_refused_on_both_sides():
    block = Block(digest="ab", index=0, data=bytes(codec.MAX_MESSAGE_BYTES))
    with pytest.raises(WireError, match="at most 900000 bytes"):
        codec.to_msgpack(block)
    with pytest.raises(WireError, match="at most 900000 bytes"):
        codec.from_msgpack(Block, msgspec.msgpack.encode(block))


@given(messages(KINDS[5]) | messages(KINDS[6]))
def test_a_request_is_told_apart_by_its_op(request_):
    assert codec.from_json(Request, codec.to_json(request_)) == request_


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_not_finite_does_not_make_its_report_unreadable(value):
    report = Reported(
        device="d", boot_epoch="e", seq=1, model="m", release="1", sha256="", state="failed",
        assignment_counter=1, at=1.0, figures={"cosine": value, "max_abs": 2.0},
    )  # fmt: skip
    found = codec.from_json(Reported, codec.to_json(report))
    assert found.figures == {"cosine": None, "max_abs": 2.0}
