"""The client without I/O: what it asks for, with which limits, and what may be kept at each moment."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tuf_repository import Repository
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)

from ota.errors import DigestError, MetadataError, ThresholdError, VerificationError
from ota.metadata import documents
from ota.verify import digests
from ota.verify.client import Ask, Client, feed
from ota.verify.delegations import MAX_WILDCARDS, Search

pytestmark = pytest.mark.agent

NOW = 1_800_000_000.0


@pytest.fixture
def repository() -> Repository:
    return Repository(NOW)


def client_of(repository: Repository, **files: bytes) -> Client:
    kept = {"root.json": repository.metadata("root", 1)}
    kept |= {f"{role}.json": data for role, data in files.items()}
    return Client(kept, now=NOW, name="here")


def refreshed(repository: Repository) -> Client:
    client = client_of(repository)
    feed(client.refresh(), repository.answer)
    return client


def test_it_asks_with_a_name_and_a_limit(repository):
    repository.with_digests = True
    repository.update("targets")
    asked: list[Ask] = []

    def answer(ask: Ask) -> bytes | None:
        asked.append(ask)
        return repository.answer(ask)

    feed(client_of(repository).refresh(), answer)
    assert asked == [
        Ask("root", 2, documents.MAX_BYTES["root"]),
        Ask("timestamp", None, documents.MAX_BYTES["timestamp"]),
        Ask("snapshot", 2, len(repository.metadata("snapshot"))),
        Ask("targets", 2, len(repository.metadata("targets"))),
    ]


def test_no_document_may_raise_the_limit_of_another(repository):
    repository.publish("snapshot")
    repository.timestamp.snapshot_meta.length = 10**15
    repository.publish("timestamp")
    steps = client_of(repository).refresh()
    next(steps)
    steps.send(None)
    ask = steps.send(repository.metadata("timestamp"))
    assert ask == Ask("snapshot", 2, documents.MAX_BYTES["snapshot"])


def test_what_holds_may_be_kept_from_the_moment_in_which_it_does(repository):
    repository.publish("root")
    client = client_of(repository)
    kept = []

    def answer(ask: Ask) -> bytes | None:
        kept.append(sorted(client.files))
        return repository.answer(ask)

    feed(client.refresh(), answer)
    assert kept == [
        ["root.json"],
        ["root.json"],
        ["root.json"],
        ["root.json", "timestamp.json"],
        ["root.json", "snapshot.json", "timestamp.json"],
    ]
    assert documents.version_of(client.files["root.json"], name="root") == 2
    assert sorted(client.held) == ["root.json", "snapshot.json", "targets.json", "timestamp.json"]


def test_a_search_before_the_refresh_is_the_callers_error(repository):
    with pytest.raises(RuntimeError):
        feed(client_of(repository).find("x"), repository.answer)


def test_what_a_driver_raises_ends_the_steps(repository):
    def answer(_: Ask) -> bytes:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        feed(client_of(repository).refresh(), answer)


def test_a_client_without_a_root_is_refused():
    with pytest.raises(MetadataError, match=r"here/root.json: expected this document"):
        Client({}, now=NOW, name="here")


def test_each_search_verifies_against_its_own_delegator(repository):
    for delegator, path in (("A", "a/*"), ("B", "b/*")):
        repository.delegate("targets", delegator, (path,))
        repository.delegate(delegator, "C", (path,))
    repository.signers["C"].pop()
    repository.add("C", "a/x", b"")
    repository.add("C", "b/x", b"")
    repository.update("A", "B", "C", "targets")
    client = refreshed(repository)
    found = feed(client.find("a/x"), repository.answer)
    assert found is not None
    assert found.role == "C"
    with pytest.raises(ThresholdError, match=r"here/C.json"):
        feed(client.find("b/x"), repository.answer)
    assert feed(client.find("a/x"), repository.answer) == found
    repository.asked.clear()
    assert feed(client.find("nowhere"), repository.answer) is None
    assert repository.asked == []


NAME = st.text("ab*?[]!-x", max_size=5)
PATH = st.lists(NAME, min_size=1, max_size=3).map("/".join)


@settings(deadline=None)
@given(
    PATH,
    st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(
                st.lists(PATH, max_size=3).map(lambda paths: (paths, None)),
                st.lists(st.text("0123456789abcdef", max_size=2), max_size=40).map(
                    lambda bins: (None, bins)
                ),
            ),
        ),
        max_size=4,
    ),
)
def test_delegations_match_as_the_reference_has_them(path, delegated):
    roles = {
        f"r{number}": DelegatedRole(f"r{number}", [], 1, terminating, paths, bins)
        for number, (terminating, (paths, bins)) in enumerate(delegated)
    }
    delegations = Delegations({}, roles)
    expected: list[str] = []
    terminated = False
    for role, terminated in delegations.get_roles_for_target(path):
        expected.append(role)
        if terminated:
            break
    found = Search(path).children(Targets(delegations=delegations))
    assert found == (expected, terminated)


@given(PATH, st.integers(1, 32))
def test_succinct_bins_are_chosen_by_the_first_bits_of_the_digest(path, bits):
    delegations = Delegations({}, None, SuccinctRoles([], 1, bits, "bin"))
    ((role,), terminated) = Search(path).children(Targets(delegations=delegations))
    number = int(hashlib.sha256(path.encode()).hexdigest(), 16) >> (256 - bits)
    assert (int(role.removeprefix("bin-"), 16), terminated) == (number, True)


def test_the_work_on_patterns_is_bounded():
    def delegating(*patterns: str) -> Targets:
        role = DelegatedRole("r", [], 1, False, list(patterns))
        return Targets(delegations=Delegations({}, {"r": role}))

    assert Search("a/b").children(delegating(*["literal/b"] * 100_000)) == ([], False)
    assert Search("a/b").children(delegating(*["c/*?*"] * 100_000)) == ([], False)
    assert Search("a/b").children(delegating("*x" * (MAX_WILDCARDS // 2) + "/b")) == ([], False)
    with pytest.raises(MetadataError, match="at most 50000 characters"):
        Search("a/b").children(delegating("*x" * (MAX_WILDCARDS // 2) + "?/b"))
    with pytest.raises(MetadataError):
        Search("a/b").children(delegating(*["?/c"] * (MAX_WILDCARDS + 1)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=5))
def test_what_is_signed_is_encoded_as_the_reference_does(fields):
    targets = Targets(unrecognized_fields={f"x{name}": value for name, value in fields.items()})
    assert documents.canonical(targets) == Metadata(targets).signed_bytes


@pytest.mark.parametrize("text", ["1.5", "1e3", "-0.0", "NaN", "-Infinity", "1" * 5_000])
def test_numbers_that_canonical_json_has_not_are_refused(repository, text):
    data = repository.metadata("timestamp")
    grown = data.replace(b'"signed": {', b'"signed": {"x": %s,' % text.encode(), 1)
    assert grown != data
    with pytest.raises(MetadataError, match="expected timestamp metadata"):
        documents.read(Timestamp, grown, name="x")


def test_digests_that_are_checked():
    target = TargetFile.from_data("x", b"content", ["sha256", "md5"])
    digests.check(target, b"content", name="x")
    with pytest.raises(DigestError, match="x: "):
        digests.check(target, b"contest", name="x")
    del target.hashes["sha256"]
    with pytest.raises(DigestError, match="found md5"):
        digests.check(target, b"content", name="x")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_a_repository_answers_the_end_is_an_error_of_ours(data):
    """Answers in any mixture: right, missing, of another role, of another version, junk."""
    repository = Repository(NOW)
    repository.delegate("targets", "A")
    repository.add("A", "x", b"content")
    repository.update("A", "targets")
    repository.publish("root")
    repository.update("targets")
    every = [document for versions in repository.published.values() for document in versions]
    client = client_of(repository)

    def answer(ask: Ask) -> bytes | None:
        right = repository.metadata(ask.role, ask.version)
        return data.draw(st.sampled_from([right] * 8 + [None, b"", b"{}", *every]))

    try:
        feed(client.refresh(), answer)
        found = feed(client.find("x"), answer)
    except VerificationError:
        return
    assert found is None or found.file == repository.signed["A"].targets["x"]
