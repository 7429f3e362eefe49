"""What a client asks for, what it keeps, and that it keeps nothing that does not hold."""

from __future__ import annotations

import json

import pytest
from securesystemslib.signer import CryptoSigner
from support.tuf_repository import TOP, signer
from tuf.api.metadata import Metadata, MetaFile

pytestmark = pytest.mark.agent

FIRST = [("root", 2), ("timestamp", None), ("snapshot", 1), ("targets", 1)]


def test_a_refresh_asks_in_order_and_keeps_what_it_received(client, repository):
    assert client.refresh() == 0
    assert repository.asked == FIRST
    assert {role: client.kept(role) for role in TOP} == {
        role: repository.metadata(role) for role in TOP
    }


def test_a_download_refreshes_first(client, repository):
    assert client.download("nowhere") == 1
    assert repository.asked == FIRST
    assert client.versions == dict.fromkeys(TOP, 1)
    assert repository.fetched == []


def test_where_nothing_is_new_only_root_and_timestamp_are_asked_for(client, repository):
    assert client.refresh() == 0
    repository.asked.clear()
    assert client.refresh() == 0
    assert repository.asked == [("root", 2), ("timestamp", None)]


def test_bytes_are_kept_as_they_came(client, repository):
    repository.published["timestamp"][-1] += b" \n"
    assert client.refresh() == 0
    assert client.kept("timestamp") == repository.metadata("timestamp")


def broken_root(repository, change) -> bytes:
    document = json.loads(repository.metadata("root", 1))
    change(document)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["signed"].pop("version"),
        lambda document: document["signatures"][0].update(sig="ab" * 64),
        lambda document: document["signed"].update(version=2),
        lambda document: document["signed"].update(_type="targets"),
    ],
    ids=["no version", "other signature", "changed", "other type"],
)
def test_a_first_root_that_does_not_hold_is_asked_nothing(client, repository, change):
    (client.metadata / "root.json").write_bytes(broken_root(repository, change))
    assert client.refresh() == 1
    assert client.download("x") == 1
    assert repository.asked == []


KEPT = {
    "root": {"root": 1},
    "timestamp": {"root": 2},
    "snapshot": {"root": 2, "timestamp": 2},
    "targets": {"root": 2, "timestamp": 2, "snapshot": 2},
}
BROKEN = [
    (role, how)
    for role in KEPT
    for how in ("unsigned", "other key", "other version")
    if (role, how) != ("timestamp", "other version")  # it is asked for without a version
]


@pytest.mark.parametrize(("role", "how"), BROKEN)
def test_a_refresh_keeps_what_held_before_the_document_that_does_not(client, repository, role, how):
    if how == "unsigned":
        repository.signers[role] = []
    elif how == "other key":
        repository.signers[role] = [signer("a stranger")]
    for each in ("root", "targets", "snapshot", "timestamp"):
        repository.signed[each].version = 2
        if how == "other version" and each == role:
            repository.signed[each].version = 3
        repository.publish_as_it_is(each)
    assert client.refresh() == 1
    assert client.versions == KEPT[role]


def test_a_timestamp_of_the_same_version_changes_nothing(client, repository):
    assert client.refresh() == 0
    first = client.kept("timestamp")
    repository.timestamp.snapshot_meta.version = 100
    repository.restart("timestamp")
    repository.publish("timestamp")
    assert client.refresh() == 0
    assert client.kept("timestamp") == first
    assert repository.asked[-1] == ("timestamp", None)


def test_targets_that_the_snapshot_does_not_name_are_not_asked_for(client, repository):
    assert client.refresh() == 0
    repository.publish("targets")
    assert client.refresh() == 0
    assert client.version("targets") == 1
    assert repository.asked[-1] == ("timestamp", None)


def test_a_snapshot_that_the_timestamp_does_not_name_is_not_asked_for(client, repository):
    assert client.refresh() == 0
    kept = repository.timestamp.snapshot_meta
    repository.publish("snapshot")
    repository.timestamp.snapshot_meta = kept
    repository.publish("timestamp")
    assert client.refresh() == 0
    assert client.version("snapshot") == 1
    assert repository.asked[-1] == ("timestamp", None)


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_documents_are_held_against_their_digests(client, repository, role):
    repository.with_digests = True
    repository.update("targets")
    assert client.refresh() == 0
    repository.publish("targets", "snapshot")
    wrong = MetaFile.from_data(3, repository.metadata(role), ["sha256"])
    wrong.hashes["sha256"] = "46" * 32
    if role == "snapshot":
        repository.timestamp.snapshot_meta = wrong
    else:
        repository.snapshot.meta["targets.json"] = wrong
        repository.restart("snapshot")
        repository.publish("snapshot", "snapshot", "snapshot")
    repository.publish("timestamp")
    assert client.refresh() == 1
    assert client.version("timestamp") == 3
    assert client.version("targets") == 2
    assert client.version("snapshot") == (2 if role == "snapshot" else 3)


def test_documents_that_are_named_by_broken_digests_alone_are_refused(client, repository):
    repository.publish("snapshot")
    repository.timestamp.snapshot_meta = MetaFile.from_data(
        2, repository.metadata("snapshot"), ["md5", "sha1"]
    )
    repository.publish("timestamp")
    assert client.refresh() == 1
    assert client.version("snapshot") is None


@pytest.mark.parametrize("by", [-1, 1])
def test_documents_are_held_against_their_length(client, repository, by):
    repository.publish("snapshot")
    data = repository.metadata("snapshot")
    repository.timestamp.snapshot_meta = MetaFile(2, length=len(data) + by)
    repository.publish("timestamp")
    assert client.refresh() == 1
    assert client.versions == {"root": 1, "timestamp": 2}


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "root"])
def test_endless_documents_are_cut(client, repository, role):
    if role == "root":
        repository.publish("root")
    repository.endless.add(role)
    assert client.refresh() == 1
    assert client.version(role) == (1 if role == "root" else None)


def test_fields_that_nobody_knows_are_a_part_of_what_is_signed(client, repository):
    assert client.refresh() == 0
    fresh = CryptoSigner.generate_ecdsa()
    fresh.public_key.unrecognized_fields["of-the-key"] = {"a": 1, "b": [2]}
    repository.add_key("root", fresh)
    repository.root.roles["root"].unrecognized_fields["of-the-role"] = "value"
    repository.root.unrecognized_fields["of-the-root"] = "value"
    repository.timestamp.unrecognized_fields["of-the-timestamp"] = None
    repository.publish("root", "timestamp")
    assert client.refresh() == 0
    assert (client.version("root"), client.version("timestamp")) == (2, 2)


def test_an_old_field_of_keys_means_nothing(client, repository):
    fresh = CryptoSigner.generate_ed25519()
    fresh.public_key.unrecognized_fields["keyid_hash_algorithms"] = "md5"
    repository.root.roles["snapshot"].keyids.clear()
    repository.signers["snapshot"].clear()
    repository.add_key("snapshot", fresh)
    repository.publish("root")
    repository.update()
    assert client.refresh() == 0
    assert (client.version("root"), client.version("snapshot")) == (2, 2)


@pytest.mark.parametrize(
    ("missing", "kept"),
    [
        ("snapshot", {"root": 1, "timestamp": 2, "snapshot": 1, "targets": 1}),
        ("targets", {"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1}),
        ("timestamp", {"root": 1, "timestamp": 1, "snapshot": 1, "targets": 1}),
    ],
)
def test_a_document_that_is_not_there_is_an_error(client, repository, missing, kept):
    assert client.refresh() == 0
    repository.update("targets")
    if missing == "timestamp":
        repository.published["timestamp"].clear()
    else:
        repository.published[missing].pop()
    assert client.refresh() == 1
    assert repository.asked[-1] == (missing, None if missing == "timestamp" else 2)
    assert client.versions == kept


def test_a_snapshot_is_no_timestamp(client, repository):
    """Signed by the timestamp's key, with all that a timestamp has, and of another type."""
    repository.add_key("snapshot", signer("timestamp"))
    repository.snapshot.meta = {"snapshot.json": MetaFile(1)}
    repository.publish("root", "snapshot")
    repository.published["timestamp"].append(repository.published["snapshot"].pop())
    assert client.refresh() == 1
    assert client.versions == {"root": 2}


def test_damaged_documents_of_its_own_are_fetched_again(client, repository):
    assert client.refresh() == 0
    for role in ("timestamp", "snapshot", "targets"):
        (client.metadata / f"{role}.json").write_bytes(b"{junk")
    assert client.refresh() == 0
    assert client.kept("targets") == repository.metadata("targets")


def test_without_consistent_snapshots_names_have_no_version(client, repository):
    repository.root.consistent_snapshot = False
    repository.publish("root")
    repository.delegate("targets", "A")
    repository.add("A", "file", b"content")
    repository.update("A", "targets")
    assert client.download("file") == 0
    assert repository.asked == [
        ("root", 2), ("root", 3), ("timestamp", None), ("snapshot", None), ("targets", None), ("A", None),
    ]  # fmt: skip
    assert repository.fetched == [("file", None)]
    assert client.files == [b"content"]


def test_many_roots_are_followed(client, repository):
    repository.publish(*["root"] * 40)
    assert client.refresh() == 0
    assert client.version("root") == 41


def test_a_refresh_follows_a_bounded_number_of_roots_and_the_next_goes_on(client, repository):
    repository.publish(*["root"] * 300)
    assert client.refresh() == 0
    assert client.version("root") == 257
    assert client.refresh() == 0
    assert client.version("root") == 301


def test_documents_that_are_signed_by_more_than_is_asked_hold(client, repository):
    repository.signers["timestamp"].append(signer("a stranger"))
    repository.publish("timestamp")
    assert client.refresh() == 0
    assert len(Metadata.from_bytes(client.kept("timestamp")).signatures) == 2
