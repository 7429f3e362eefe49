"""Versions never fall, but for those whose keys were replaced (recovery from a fast-forward attack)."""

from __future__ import annotations

import pytest
from support.tuf_repository import signer

pytestmark = pytest.mark.agent


@pytest.fixture(params=[False, True], ids=["by version", "by digest"])
def with_digests(request, repository):
    repository.with_digests = request.param


def test_a_timestamp_does_not_go_back(client, repository):
    repository.publish("timestamp")
    assert client.refresh() == 0
    repository.restart("timestamp")
    repository.publish("timestamp")
    assert client.refresh() == 1
    assert client.version("timestamp") == 2
    assert repository.asked[-1] == ("timestamp", None)


@pytest.mark.usefixtures("with_digests")
def test_a_snapshot_does_not_go_back(client, repository):
    repository.update()
    assert client.refresh() == 0
    repository.restart("snapshot")
    repository.update()
    assert client.refresh() == 1
    assert (client.version("timestamp"), client.version("snapshot")) == (2, 2)
    assert repository.asked[-1] == ("timestamp", None)


@pytest.mark.usefixtures("with_digests")
def test_targets_do_not_go_back(client, repository):
    repository.update("targets")
    assert client.refresh() == 0
    repository.restart("targets")
    repository.update("targets")
    assert client.refresh() == 1
    assert (client.version("snapshot"), client.version("targets")) == (2, 2)


@pytest.mark.usefixtures("with_digests")
def test_a_delegated_role_does_not_go_back(client, repository):
    repository.delegate("targets", "A")
    repository.add("A", "file", b"content")
    repository.publish("A")
    repository.update("A", "targets")
    assert client.download("file") == 0
    repository.restart("A")
    repository.update("A")
    assert client.download("file") == 1
    assert client.version("A") == 2


def test_a_role_does_not_leave_the_snapshot(client, repository):
    repository.delegate("targets", "A")
    repository.update("A", "targets")
    assert client.refresh() == 0
    del repository.snapshot.meta["A.json"]
    repository.update()
    assert client.refresh() == 1
    assert client.version("snapshot") == 2


def test_roots_leave_no_gap_and_do_not_go_back(client, repository):
    repository.publish("root", "root")
    assert client.refresh() == 0
    repository.published["root"].append(repository.published["root"][1])
    assert client.refresh() == 1
    assert client.version("root") == 3


def test_a_timestamp_recovers_with_a_new_key(client, repository):
    repository.publish(*["timestamp"] * 99)
    assert client.refresh() == 0
    assert client.version("timestamp") == 100
    repository.rotate("timestamp", "second timestamp")
    repository.restart("timestamp")
    repository.publish("root", "timestamp")
    assert client.refresh() == 0
    assert client.version("timestamp") == 1


def test_a_snapshot_recovers_with_new_keys_of_snapshot_and_timestamp(client, repository):
    repository.publish(*["snapshot"] * 99, "timestamp")
    assert client.refresh() == 0
    assert client.version("snapshot") == 100
    for role in ("snapshot", "timestamp"):
        repository.rotate(role, f"second {role}")
        repository.restart(role)
    repository.publish("root")
    repository.update("targets")
    assert client.refresh() == 0
    assert (client.version("snapshot"), client.version("timestamp")) == (1, 1)


def test_targets_recover_with_a_new_key_of_the_snapshot(client, repository):
    repository.delegate("targets", "A")
    repository.publish("A", *["targets"] * 99)
    repository.update()
    assert client.refresh() == 0
    assert client.version("targets") == 100
    repository.rotate("snapshot", "second snapshot")
    repository.restart("targets")
    del repository.snapshot.meta["A.json"]
    repository.publish("root")
    repository.update("targets")
    assert client.refresh() == 0
    assert client.version("targets") == 1


def test_targets_recover_with_a_new_key_of_their_own(client, repository):
    """Beyond the specification: a stolen targets key can have the snapshot name any version."""
    repository.publish(*["targets"] * 99)
    repository.update()
    assert client.refresh() == 0
    repository.rotate("targets", "second targets")
    repository.restart("targets")
    repository.publish("root")
    repository.update("targets")
    assert client.refresh() == 0
    assert client.version("targets") == 1


def test_what_rotated_keys_vouched_for_is_not_kept_even_where_the_refresh_fails(client, repository):
    assert client.refresh() == 0
    repository.rotate("snapshot", "second snapshot")
    repository.publish("root")
    repository.published["timestamp"].clear()
    assert client.refresh() == 1
    assert client.versions == {"root": 2, "targets": 1}


def test_a_key_more_forgets_nothing(client, repository):
    repository.publish("timestamp")
    assert client.refresh() == 0
    repository.add_key("timestamp", signer("second timestamp"))
    repository.restart("timestamp")
    repository.publish("root", "timestamp")
    assert client.refresh() == 1
    assert client.version("timestamp") == 2
