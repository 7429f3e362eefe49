"""Whatever bytes come, what comes back is an acceptance or an error of ours."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ota_fuzz

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


@pytest.mark.parametrize("kind", ota_fuzz.KINDS)
def test_documents_that_were_changed_somewhere(kind: str):
    """On the way, or by one who holds the keys; `make fuzz-ota` does the same with far more inputs."""
    tally = ota_fuzz.run(kind, inputs=1_500, seed=1_000_000)
    assert tally.outcomes["accepted"] > 0
    assert {"ota.metadata", "ota.threshold", "ota.rollback_refused"} <= set(tally.outcomes)
    assert tally.grown_mib < 512


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
