"""The search through delegations: its order, its ends, and who is believed about what."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from urllib.parse import quote

import pytest
from support.tuf_repository import signer

pytestmark = pytest.mark.agent

TOP = 4
"""Requests for root, timestamp, snapshot and targets, which come before those for delegated roles."""

GRAPHS = {
    "one": ([("targets", "A")], "A"),
    "two": ([("targets", "A"), ("targets", "B")], "AB"),
    "two levels": ([("targets", "A"), ("targets", "B"), ("B", "C")], "ABC"),
    "depth first": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D")], "ACDB"),
    "three levels": ([("targets", "A"), ("targets", "B"), ("A", "C"), ("C", "D")], "ACDB"),
    "terminating": ([("targets", "A"), ("targets", "B"), ("A", "C!"), ("A", "D")], "AC"),
    "below a terminating": ([("targets", "A"), ("targets", "B"), ("A", "C!"), ("C", "D")], "ACD"),
    "terminating at the top": ([("targets", "A!"), ("targets", "B"), ("A", "C")], "AC"),
    "other paths": ([("targets", "A", "*.py"), ("targets", "B"), ("A", "C")], "B"),
    "other paths below": (
        [("targets", "A"), ("targets", "B"), ("A", "C", "*.py"), ("C", "D")],
        "AB",
    ),
    "terminating for other paths": ([("targets", "A!", "*.py"), ("targets", "B")], "B"),
    "a cycle": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("C", "D"), ("D", "B")], "ABCD"),
    "its own delegate": ([("targets", "A"), ("A", "A"), ("targets", "B")], "AB"),
    "two delegators": ([("targets", "A"), ("targets", "B"), ("B", "C"), ("A", "C")], "ACB"),
    "two delegators, one for other paths": (
        [("targets", "A"), ("targets", "B"), ("B", "C"), ("A", "C", "*.py")],
        "ABC",
    ),
}


def build(repository, edges) -> None:
    for delegator, role, *paths in edges:
        repository.delegate(
            delegator, role.rstrip("!"), tuple(paths) or ("*",), terminating=role.endswith("!")
        )
    repository.update(*{role.rstrip("!") for _, role, *_ in edges}, "targets")


@pytest.mark.parametrize(("edges", "order"), GRAPHS.values(), ids=list(GRAPHS))
def test_the_order_of_a_search(client, repository, edges, order):
    build(repository, edges)
    assert client.download("nowhere") == 1
    assert repository.asked[TOP:] == [(role, 1) for role in order]
    assert set(client.versions) == {"root", "timestamp", "snapshot", "targets", *order}
    repository.asked.clear()
    assert client.download("nowhere") == 1
    assert repository.asked == [("root", 2), ("timestamp", None)], "delegated roles are kept too"


TREE = [
    ("targets", "A", "*.doc", "*.md"),
    ("targets", "B", "releases/*/*"),
    ("B", "C", "releases/x/*"),
    ("B", "D", "releases/y/*.zip"),
]
PLACES = {
    "at the top": ("file", "targets", ""),
    "by a wildcard": ("README.md", "A", "A"),
    "two levels down": ("releases/x/x_v1", "C", "BC"),
    "by a suffix": ("releases/y/y_v1.zip", "D", "BD"),
    "not delegated to it": ("releases/z/z_v1.zip", "D", None),
    "not delegated by its delegator": ("x/releases/y.zip", "D", None),
    "a wildcard does not cross a slash": ("docs/README.md", "A", None),
    "a wildcard does not match less": ("releases/x", "C", None),
    "nor more": ("releases/x/y/z", "C", None),
    "case counts": ("readme.MD", "A", None),
}


@pytest.mark.parametrize(("path", "role", "order"), PLACES.values(), ids=list(PLACES))
def test_a_role_speaks_for_the_paths_of_its_whole_chain(client, repository, path, role, order):
    for delegator, each, *paths in TREE:
        repository.delegate(delegator, each, tuple(paths))
    repository.add(role, path, path.encode())
    repository.update("A", "B", "C", "D", "targets")
    assert client.download(path) == (0 if order is not None else 1)
    assert client.files == ([path.encode()] if order is not None else [])
    if order is not None:
        assert repository.asked[TOP:] == [(each, 1) for each in order]


def test_the_first_role_that_has_a_path_speaks_for_it(client, repository):
    repository.delegate("targets", "A")
    repository.delegate("targets", "B")
    repository.add("B", "file", b"of B")
    repository.add("A", "file", b"of A")
    repository.update("A", "B", "targets")
    assert client.download("file") == 0
    assert client.files == [b"of A"]
    assert repository.asked[TOP:] == [("A", 1)]


def parents(repository) -> None:
    """A and B both delegate to C, with keys of their own; only A's has signed C."""
    repository.delegate("targets", "A", ("a/*",))
    repository.delegate("targets", "B", ("b/*",))
    repository.delegate("A", "C", ("a/*",))
    repository.delegate("B", "C", ("b/*",))
    repository.signers["C"] = [signer("C by A")]
    repository.add("C", "a/file", b"a")
    repository.add("C", "b/file", b"b")
    repository.update("A", "B", "C", "targets")


def test_a_role_in_memory_is_verified_against_the_delegator_of_this_search(client, repository):
    parents(repository)
    assert client.download("a/file", "b/file") == 1
    assert client.files == [b"a"]


def test_a_role_on_the_disk_is_verified_against_the_delegator_of_this_search(client, repository):
    parents(repository)
    assert client.download("a/file") == 0
    assert client.version("C") == 1
    assert client.download("b/file") == 1
    assert client.files == [b"a"]
    assert client.download("a/file") == 0


def test_a_role_that_both_delegators_vouch_for_is_fetched_once(client, repository):
    parents(repository)
    repository.signers["C"] = [signer("C by A"), signer("C by B")]
    repository.update("C")
    assert client.download("a/file", "b/file", "a/file") == 0
    assert client.files == [b"a", b"b"]
    assert [role for role, _ in repository.asked].count("C") == 1


def test_a_key_of_another_delegator_is_no_key(client, repository):
    """Keys are looked up in the delegator alone, not along the chain."""
    repository.delegate("targets", "A")
    repository.delegate("A", "C")
    delegations = repository.signed["A"].delegations
    elsewhere = dict(delegations.keys)
    delegations.keys.clear()
    repository.signed["targets"].delegations.keys.update(elsewhere)
    repository.add("C", "file", b"content")
    repository.update("A", "C", "targets")
    assert client.download("file") == 1


def test_a_role_that_the_snapshot_does_not_list_ends_the_search(client, repository):
    repository.delegate("targets", "A")
    repository.delegate("targets", "B")
    repository.add("B", "file", b"content")
    repository.update("B", "targets")
    assert client.download("file") == 1
    assert client.files == []


def test_a_search_is_bounded(client, repository):
    chain = ["targets", *(f"r{i}" for i in range(40))]
    for delegator, role in pairwise(chain):
        repository.delegate(delegator, role)
    repository.add("r20", "near", b"near")
    repository.add("r39", "far", b"far")
    repository.update(*chain)
    assert client.download("near") == 0
    assert client.download("far") == 1
    assert (
        len([role for role, _ in repository.asked if role.startswith("r") and role != "root"]) == 31
    )
    assert client.files == [b"near"]


def bin_of(path: str, digits: int) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:digits]


@pytest.mark.parametrize("path", ["file0.txt", "file1.txt", "folder/file.txt"])
def test_hash_bins(client, repository, path):
    repository.delegate("targets", "bins", ("*", "*/*"))
    for number in range(16):
        digit = f"{number:x}"
        repository.delegate("bins", f"bin-{digit}", bins=[f"{digit}{low:x}" for low in range(16)])
    home = f"bin-{bin_of(path, 1)}"
    repository.add(home, path, b"content")
    repository.update("targets", "bins", *(f"bin-{number:x}" for number in range(16)))
    assert client.download(path) == 0
    assert repository.asked[TOP:] == [("bins", 1), (home, 1)]
    assert client.files == [b"content"]


@pytest.mark.parametrize("bits", [1, 3, 4, 8])
@pytest.mark.parametrize("path", ["a", "folder/b", "é"])
def test_succinct_hash_bins(client, repository, bits, path):
    repository.delegate_succinctly(bits, "bin")
    digits = len(f"{2**bits - 1:x}")
    number = int(bin_of(path, 8), 16) >> (32 - bits)
    home = f"bin-{number:0{digits}x}"
    other = f"bin-{number ^ 1:0{digits}x}"
    repository.add(home, path, b"content")
    repository.add(other, "elsewhere", b"")
    repository.update("targets", home, other)
    assert client.download(path) == (0 if path != "é" else 1), "a path is a URL: it is encoded"
    assert repository.asked[TOP:] == [(home, 1)]
    assert client.version(home) == 1


@pytest.mark.parametrize("role", ["?", "#", "/role", "../role", ".", "..", "a%2Fb", "é ü", "1.A"])
def test_names_of_roles_are_encoded_in_urls_and_files(client, repository, tmp_path, role):
    repository.delegate("targets", role)
    repository.update(role, "targets")
    before = sorted(tmp_path.iterdir())
    assert client.download("nowhere") == 1
    assert (quote(role, safe=""), 1) in repository.asked
    assert len(client.versions) == 5
    assert sorted(tmp_path.iterdir()) == before
    repository.asked.clear()
    assert client.download("nowhere") == 1
    assert repository.asked == [("root", 2), ("timestamp", None)]


def test_a_role_whose_name_makes_no_file_is_fetched_each_time(client, repository):
    role = "r" * 300
    repository.delegate("targets", role)
    repository.add(role, "file", b"content")
    repository.update(role, "targets")
    assert client.download("file") == 0
    assert client.download("file") == 0
    assert [each for each, _ in repository.asked].count(role) == 2
    assert len(client.versions) == 4
