"""Targets: what is stored is what was signed, or nothing; what is stored is not fetched again."""

from __future__ import annotations

import pytest
from tuf.api.metadata import TargetFile

pytestmark = pytest.mark.agent


@pytest.mark.parametrize("path", ["file.txt", "path/to/a/file.txt", "with%20space", "a+b=c~d"])
def test_a_target_is_stored(client, repository, path):
    repository.add("targets", path, b"content")
    repository.update("targets")
    assert client.refresh() == 0
    assert client.files == []
    assert client.download(path) == 0
    assert client.files == [b"content"]
    assert len(repository.fetched) == 1


def test_a_stored_target_is_not_fetched_again(client, repository):
    repository.add("targets", "file", b"content")
    repository.update("targets")
    assert client.download("file") == 0
    assert client.download("file", "file") == 0
    assert len(repository.fetched) == 1


def test_a_stored_target_that_was_damaged_is_fetched_again(client, repository):
    repository.add("targets", "file", b"content")
    repository.update("targets")
    assert client.download("file") == 0
    (stored,) = client.targets.iterdir()
    stored.write_bytes(b"contest")
    assert client.download("file") == 0
    assert client.files == [b"content"]
    assert len(repository.fetched) == 2


def test_a_stored_target_follows_the_signed_one_and_nothing_else(client, repository):
    repository.add("targets", "file", b"first")
    repository.add("targets", "other", b"other")
    repository.update("targets")
    assert client.download("file") == 0
    repository.blobs.update(file=b"FIRST", other=b"OTHER")
    assert client.download("file") == 0, "it is there already"
    assert client.download("other") == 1
    assert client.files == [b"first"]
    for number in range(6):
        content = f"content {number}".encode()
        repository.add("targets", "file", content)
        repository.update("targets")
        if number % 3 == 0:
            continue
        assert client.download("file") == 0
        assert client.files == [content]
        repository.blobs["file"] = b"forged"
        repository.update("targets")
        client.download("file")
        assert client.files == [content]


@pytest.mark.parametrize("data", [b"conten", b"content!", b"", b"CONTENT"])
def test_other_bytes_are_not_stored(client, repository, data):
    repository.add("targets", "file", b"content")
    repository.update("targets")
    repository.blobs["file"] = data
    assert client.download("file") == 1
    assert list(client.targets.iterdir()) == []


def test_a_target_without_an_end_is_cut(client, repository):
    repository.add("targets", "file", b"content")
    repository.update("targets")
    repository.endless.add("file")
    assert client.download("file") == 1
    assert list(client.targets.iterdir()) == []


def test_a_target_that_is_not_served_is_an_error(client, repository):
    repository.add("targets", "file", b"content")
    repository.update("targets")
    repository.blobs.clear()
    assert client.download("file") == 1


@pytest.mark.parametrize(
    "algorithms", [("sha256",), ("sha512",), ("sha256", "sha512"), ("md5", "sha384"), ("blake2b",)]
)
def test_digests_that_are_known(client, repository, algorithms):
    repository.add("targets", "file", b"content", algorithms)
    repository.update("targets")
    assert client.download("file") == 0
    assert client.files == [b"content"]
    ((_, digest),) = repository.fetched
    assert digest in repository.signed["targets"].targets["file"].hashes.values()


@pytest.mark.parametrize("algorithms", [("md5",), ("sha1", "md5")])
def test_broken_digests_alone_are_refused(client, repository, algorithms):
    repository.add("targets", "file", b"content", algorithms)
    repository.update("targets")
    assert client.download("file") == 1
    assert client.files == []


@pytest.mark.parametrize("beside", [(), ("sha256",)], ids=["alone", "beside sha256"])
def test_digests_that_nobody_knows_are_refused(client, repository, beside):
    target = TargetFile.from_data("file", b"content", list(beside) or ["sha512"])
    known = dict(target.hashes)
    target.hashes = {**(known if beside else {}), "unheard-of": "ab" * 32}
    repository.signed["targets"].targets["file"] = target
    repository.blobs["file"] = b"content"
    repository.update("targets")
    assert client.download("file") == 1
    assert client.files == []


def test_each_digest_must_hold(client, repository):
    repository.add("targets", "file", b"content", ("sha256", "sha512"))
    repository.signed["targets"].targets["file"].hashes["sha512"] = "ab" * 64
    repository.update("targets")
    assert client.download("file") == 1
    assert client.files == []


def test_several_targets_are_downloaded_in_order_until_one_fails(client, repository):
    for name in ("a", "b", "c"):
        repository.add("targets", name, name.encode())
    repository.update("targets")
    assert client.download("a", "nowhere", "c") == 1
    assert client.files == [b"a"]
    assert client.download("c", "b") == 0
    assert [path for path, _ in repository.fetched] == ["a", "c", "b"]


def test_a_path_stays_within_the_folder(client, repository, tmp_path):
    for path in ("../escaped", "/etc/escaped", "..", "x" * 400):
        repository.add("targets", path, path.encode())
    repository.update("targets")
    before = sorted(tmp_path.iterdir())
    for path in ("../escaped", "/etc/escaped", "x" * 400):
        client.download(path)
    assert sorted(tmp_path.iterdir()) == before
    assert all(path.is_file() for path in client.targets.iterdir())
