"""What has expired is not used, whether it comes now or was kept; but it still serves against rollback.

The clock stands; a document that expired since it was kept is put into the client's folder, signed.
"""

from __future__ import annotations

import pytest

from ota.metadata import documents

pytestmark = pytest.mark.agent

DAY_S = 86_400


@pytest.fixture
def past(repository):
    return documents.moment(repository.now - DAY_S)


def test_a_root_is_taken_and_then_found_expired(client, repository, past):
    assert client.refresh() == 0
    repository.publish("root")
    repository.root.expires = past
    repository.publish("root")
    repository.update("targets")
    assert client.refresh() == 1
    assert client.versions == {"root": 3, "timestamp": 1, "snapshot": 1, "targets": 1}
    assert repository.asked[-1] == ("root", 4)


def test_an_expired_root_may_be_followed_by_one_that_is_not(client, repository, past):
    good = repository.root.expires
    repository.root.expires = past
    repository.publish("root")
    repository.root.expires = good
    repository.publish("root")
    assert client.refresh() == 0
    assert client.version("root") == 3


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_an_expired_document_is_refused(client, repository, past, role):
    assert client.refresh() == 0
    repository.signed[role].expires = past
    repository.update("targets")
    assert client.refresh() == 1
    assert client.version(role) == 1


def kept_expired(client, repository, role, past) -> None:
    """Let the version that the client has kept be one that has expired since."""
    good = repository.signed[role].expires
    repository.signed[role].expires = past
    repository.published[role].pop()
    repository.publish_as_it_is(role)
    repository.signed[role].expires = good
    (client.metadata / f"{role}.json").write_bytes(repository.metadata(role))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_kept_document_that_has_expired_is_replaced(client, repository, past, role):
    assert client.refresh() == 0
    kept_expired(client, repository, role, past)
    repository.update("targets")
    assert client.refresh() == 0
    assert client.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_a_kept_document_that_has_expired_is_not_used(client, repository, past, role):
    assert client.refresh() == 0
    kept_expired(client, repository, role, past)
    assert client.refresh() == 1


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_a_kept_document_that_has_expired_serves_against_rollback(client, repository, past, role):
    repository.update("targets")
    assert client.refresh() == 0
    kept_expired(client, repository, role, past)
    repository.restart("targets" if role == "snapshot" else role)
    repository.update("targets")
    assert client.refresh() == 1
    assert client.version(role) == 2


def delegated(repository, *paths) -> None:
    repository.delegate("targets", "A", ("a/*",))
    for path in paths:
        repository.add("A", path, path.encode())
    repository.update("A", "targets")


def test_an_expired_delegated_role_is_refused(client, repository, past):
    repository.delegate("targets", "A", ("a/*",))
    repository.signed["A"].expires = past
    repository.add("A", "a/file", b"content")
    repository.update("A", "targets")
    assert client.refresh() == 0
    assert client.download("a/file") == 1
    assert client.files == []
    assert client.versions == {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 2}


def test_a_kept_delegated_role_that_has_expired_is_not_used(client, repository, past):
    delegated(repository, "a/first", "a/second")
    assert client.download("a/first") == 0
    kept_expired(client, repository, "A", past)
    assert client.download("a/second") == 1
    assert client.files == [b"a/first"]


def test_a_kept_delegated_role_that_has_expired_is_replaced(client, repository, past):
    delegated(repository, "a/first", "a/second")
    assert client.download("a/first") == 0
    kept_expired(client, repository, "A", past)
    repository.update("A")
    assert client.download("a/second") == 0
    assert client.files == [b"a/first", b"a/second"]
    assert client.version("A") == 2
