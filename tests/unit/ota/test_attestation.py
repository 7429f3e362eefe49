from __future__ import annotations

import base64
import contextlib
import hashlib

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fleet.wire import envelope
from ota.errors import MetadataError, MismatchError, ThresholdError, VerificationError
from ota.metadata import statement as statements
from ota.metadata.statement import Statement, Subject
from ota.verify import attestation

pytestmark = pytest.mark.agent

DIGEST = hashlib.sha256(b"artifact").hexdigest()
KIND = "https://slsa.dev/provenance/v1"


@pytest.fixture(scope="module")
def keys():
    return [ec.generate_private_key(ec.SECP256R1()) for _ in range(3)]


def public(*private):
    return {envelope.key_id(k.public_key()): k.public_key() for k in private}


def sealed(*private, digest: str = DIGEST, kind: str = KIND) -> bytes:
    statement = Statement(
        subject=[Subject(name="model.tflite", digest={"sha256": digest})],
        predicate_type=kind,
        predicate={"figures": {"top1": 0.98}},
    )
    return statements.seal(statement, *(envelope.signer(k) for k in private))


def verify(data: bytes, known, **changes) -> Statement:
    return attestation.verify(data, known, **({"sha256": DIGEST, "predicate_type": KIND} | changes))


def test_a_signed_statement_holds_for_its_artifact(keys):
    statement = verify(sealed(keys[0]), public(*keys))
    assert statement.predicate == {"figures": {"top1": 0.98}}
    assert statement.subject[0].name == "model.tflite"


def test_the_signed_bytes_are_those_of_the_format():
    assert statements.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_strangers_signature_does_not_hold(keys):
    with pytest.raises(ThresholdError):
        verify(sealed(keys[0]), public(keys[1]))
    with pytest.raises(ThresholdError):
        verify(sealed(keys[0]), {})


def test_a_key_that_signed_twice_counts_once(keys):
    with pytest.raises(ThresholdError, match="found 1"):
        verify(sealed(keys[0], keys[0]), public(*keys), threshold=2)
    assert verify(sealed(keys[0], keys[2]), public(*keys), threshold=2)


def test_a_statement_about_something_else_does_not_hold(keys):
    with pytest.raises(MismatchError, match="about"):
        verify(sealed(keys[0], digest="0" * 64), public(*keys))
    with pytest.raises(MismatchError, match="expected"):
        verify(sealed(keys[0], kind="https://example.com/else"), public(*keys))


def test_another_payload_type_under_the_same_signature_does_not_hold(keys):
    data = sealed(keys[0])
    other = data.replace(b"application/vnd.in-toto+json", b"application/vnd.in-toto+json2")
    with pytest.raises(MetadataError):
        verify(other, public(*keys))


def test_url_safe_base64_is_read_too(keys):
    data = msgspec.json.decode(sealed(keys[0]))
    data["payload"] = data["payload"].replace("+", "-").replace("/", "_")
    assert verify(msgspec.json.encode(data), public(*keys))


@given(st.data())
def test_no_changed_byte_goes_unnoticed(keys, data: st.DataObject):
    original = sealed(keys[0])
    payload = base64.b64decode(msgspec.json.decode(original)["payload"])
    at = data.draw(st.integers(0, len(payload) - 1))
    changed = bytearray(payload)
    changed[at] ^= data.draw(st.integers(1, 255))
    document = msgspec.json.decode(original)
    document["payload"] = base64.b64encode(bytes(changed)).decode()
    with pytest.raises(ThresholdError):
        verify(msgspec.json.encode(document), public(*keys))


@given(st.binary(max_size=200))
def test_junk_is_an_error_of_ours(keys, junk: bytes):
    signed = msgspec.json.encode(
        {
            "payload": base64.b64encode(junk).decode(),
            "payloadType": statements.PAYLOAD_TYPE,
            "signatures": [
                {
                    "sig": base64.b64encode(
                        envelope.signer(keys[0]).sign(statements.pae(statements.PAYLOAD_TYPE, junk))
                    ).decode()
                }
            ],
        }
    )
    for data in (junk, signed):
        with pytest.raises(VerificationError):
            verify(data, public(*keys))


def test_what_is_too_long_or_has_too_many_signatures_is_refused(keys):
    with pytest.raises(MetadataError, match="at most"):
        verify(b" " * (statements.MAX_ENVELOPE_BYTES + 1), public(*keys))
    document = msgspec.json.decode(sealed(keys[0]))
    for signatures in ([], document["signatures"] * 17):
        with pytest.raises(MetadataError, match="signatures"):
            verify(msgspec.json.encode({**document, "signatures": signatures}), public(*keys))


def test_a_statement_of_another_version_is_refused(keys):
    statement = Statement(subject=[], predicate_type=KIND, type="https://in-toto.io/Statement/v9")
    with pytest.raises(MetadataError, match="update"):
        verify(statements.seal(statement, envelope.signer(keys[0])), public(*keys))
    with contextlib.suppress(VerificationError):
        statements.parse(b"null")


@given(
    st.lists(
        st.builds(
            Subject,
            name=st.text(max_size=20),
            digest=st.dictionaries(st.text(max_size=8), st.text(max_size=64), max_size=2),
        ),
        max_size=3,
    ),
    st.text(max_size=30),
    st.dictionaries(st.text(max_size=8), st.integers(-(2**53), 2**53) | st.text(), max_size=4),
)
def test_statements_survive_the_envelope(keys, subject, kind, predicate):
    statement = Statement(subject=subject, predicate_type=kind, predicate=predicate)
    data = statements.seal(statement, envelope.signer(keys[0]), envelope.signer(keys[1]))
    payload, signatures = statements.open_envelope(data)
    assert statements.parse(payload) == statement
    assert len(signatures) == 2
