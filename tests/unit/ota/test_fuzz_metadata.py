"""Whatever bytes come, what comes back is an acceptance or an error of ours."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ota.errors import VerificationError
from ota.metadata import documents, statement
from ota.verify import trust

pytestmark = pytest.mark.agent

PATH = "digits/1/litert-cpu.outrider"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture
def genuine(house):
    house.release("digits", "1")
    image, director = house.documents(house.assign(PATH))
    return house, image, director


def accepts(house, image, director) -> None:
    with contextlib.suppress(VerificationError):
        accepted = trust.accept(
            house.store, image=image, director=director, device="d1", tenant="t1", now=house.now
        )
        assert {target.path for target in accepted.targets} <= {PATH}


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.binary(max_size=300) | JSON.map(lambda v: json.dumps(v).encode()), st.integers(0, 6))
def test_junk_in_place_of_a_document(genuine, junk: bytes, at: int):
    house, image, director = genuine
    places = [(image, name) for name in image] + [(director, name) for name in director]
    part, name = places[at % len(places)]
    changed = {**part, name: junk}
    accepts(
        house,
        changed if part is image else image,
        changed if part is director else director,
    )


def mutate(value: object, rng: random.Random) -> object:
    """One leaf of a JSON document, or one key, replaced by something else."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        action = rng.random()
        if action < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if action < 0.15:
            return {**value, key + "x": value[key]}
        return {**value, key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], mutate(value[at], rng), *value[at + 1 :]]
    return rng.choice(
        [None, True, -1, 0, 2**63, 2**70, 1.5, "", "x", "é\x00", [], {}, [[]], {"a": 1}, 10**400]
    )


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 2**32), st.integers(0, 6))
def test_documents_that_were_changed_somewhere(genuine, seed: int, at: int):
    house, image, director = genuine
    places = [(image, name) for name in image] + [(director, name) for name in director]
    part, name = places[at % len(places)]
    document = json.loads(part[name])
    data = json.dumps(mutate(document, random.Random(seed))).encode()
    changed = {**part, name: data}
    accepts(
        house,
        changed if part is image else image,
        changed if part is director else director,
    )


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, 2**32), st.sampled_from(["digits.json", "targets.json", "director"]))
def test_documents_that_a_key_holder_signed_wrongly(genuine, by_name, seed: int, which: str):
    """Past the signatures: content that no honest signer would sign must not crash a device either."""
    house, image, director = genuine
    rng = random.Random(seed)
    source = director["targets.json"] if which == "director" else image[which]
    name = {"digits.json": "release digits", "targets.json": "image targets"}.get(
        which, "director targets"
    )
    body = mutate(json.loads(source)["signed"], rng)
    data = sign(body, by_name(name))
    if data is None:
        return
    if which == "director":
        accepts(house, image, {**director, "targets.json": data})
        return
    backup = dict(house.image.files)
    try:
        house.image.files[which] = data
        with contextlib.suppress(VerificationError, KeyError, TypeError, ValueError):
            house.image.refresh(house.now)
        accepts(house, {**house.image.for_device(["digits"])}, director)
    finally:
        house.image.files = backup


def sign(body: object, by) -> bytes | None:
    """What a signer would sign, as far as it can be written at all."""
    from securesystemslib.exceptions import FormatError
    from securesystemslib.formats import encode_canonical

    try:
        canonical = encode_canonical(body).encode()
    except (FormatError, UnicodeEncodeError, AttributeError):
        return None
    signature = by.sign(canonical)
    envelope = {
        "signatures": [{"keyid": signature.keyid, "sig": signature.signature}],
        "signed": body,
    }
    return json.dumps(envelope).encode()


@given(st.binary(max_size=400))
def test_junk_is_no_trust_store(junk: bytes):
    with contextlib.suppress(VerificationError):
        trust.installed(trust.from_bytes(junk))


@given(st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_junk_is_no_statement_and_has_no_version(junk: bytes):
    for read in (
        statement.open_envelope,
        statement.parse,
        lambda data: documents.version_of(data, name="x"),
    ):
        with contextlib.suppress(VerificationError):
            read(junk)


def test_deep_nesting_is_refused(genuine):
    house, image, director = genuine
    for depth in (1_000, 7_000):
        deep = b"[" * depth + b"]" * depth
        accepts(house, {**image, "timestamp.json": deep}, director)
        accepts(house, image, {**director, "targets.json": deep})
        with pytest.raises(VerificationError):
            statement.parse(deep)
