"""Thresholds count keys that the delegator names, each once, by signatures that hold."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from support.tuf_repository import signer
from tuf.api.metadata import Key, Metadata

pytestmark = pytest.mark.agent


def test_a_signature_too_few_is_refused(client, repository):
    repository.root.roles["snapshot"].threshold = 3
    for name in ("s2", "s3"):
        repository.add_key("snapshot", signer(name))
    repository.publish("root")
    repository.update("targets")
    assert client.refresh() == 0
    repository.signers["snapshot"].pop()
    repository.update("targets")
    assert client.refresh() == 1
    assert client.version("snapshot") == 2


def test_a_role_with_fewer_keys_than_its_threshold_is_never_signed(client, repository):
    for name in ("s2", "s3", "s4", "s5"):
        repository.add_key("snapshot", signer(name))
    repository.root.roles["snapshot"].threshold = 6
    repository.publish("root")
    repository.update()
    assert client.refresh() == 1
    assert client.versions == {"root": 2, "timestamp": 2}


def edit(repository, role, change) -> None:
    """Change a published document's JSON; its signatures stay."""
    document = json.loads(repository.published[role].pop())
    change(document)
    repository.published[role].append(json.dumps(document).encode())


def test_a_key_id_may_sign_once(client, repository):
    edit(repository, "snapshot", lambda d: d["signatures"].append(d["signatures"][0]))
    assert client.refresh() == 1
    assert client.version("snapshot") is None


def test_a_key_id_may_stand_in_a_role_once(client, repository):
    repository.root.roles["snapshot"].threshold = 2
    repository.root.roles["snapshot"].keyids *= 2
    repository.publish("root")
    repository.update()
    edit(repository, "snapshot", lambda d: d["signatures"].append(d["signatures"][0]))
    assert client.refresh() == 1
    assert client.version("snapshot") is None


@pytest.mark.parametrize(
    ("kind", "spell"),
    [
        ("ed25519", str),
        ("ed25519", str.upper),
        ("ecdsa", str),
        ("ecdsa", lambda pem: pem.replace("\n", "\n\n", 1)),
    ],
    ids=["same", "upper case", "same PEM", "other PEM"],
)
def test_a_key_under_two_ids_counts_once(client, repository, kind, spell):
    """Its holder could meet a threshold of two alone."""
    one = signer(f"one {kind}", kind)
    public = one.public_key
    twin = Key.from_dict("ab" * 32, public.to_dict())
    twin.keyval["public"] = spell(twin.keyval["public"])
    repository.rotate("snapshot", "unused")
    role = repository.root.roles["snapshot"]
    role.keyids = []
    repository.signers["snapshot"] = []
    repository.add_key("snapshot", one)
    repository.root.keys[twin.keyid] = twin
    role.keyids.append(twin.keyid)
    role.threshold = 2
    repository.publish("root")
    repository.update()
    edit(
        repository,
        "snapshot",
        lambda d: d["signatures"].append({**d["signatures"][0], "keyid": twin.keyid}),
    )
    assert client.refresh() == 1
    assert client.versions == {"root": 2, "timestamp": 2}


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa", "rsa-pkcs1v15"])
def test_kinds_of_keys(client, repository, kind):
    by = signer(f"root {kind}", kind)
    repository.add_key("root", by)
    repository.root.roles["root"].threshold = 2
    repository.publish("root")
    assert client.refresh() == 0
    assert client.version("root") == 2

    repository.publish("root")
    root = Metadata.from_bytes(repository.published["root"].pop())
    good = root.signatures[by.public_key.keyid].signature
    root.signatures[by.public_key.keyid].signature = by.sign(b"something else").signature
    repository.published["root"].append(root.to_bytes())
    assert good not in repository.published["root"][-1].decode()
    assert client.refresh() == 1
    assert client.version("root") == 2


@pytest.mark.parametrize("bad", ["", "ab", "zz", "ab" * 64, "é"])
def test_a_signature_that_does_not_hold_does_no_harm_beside_one_that_does(client, repository, bad):
    repository.add_key("timestamp", signer("t2"))
    repository.publish("root", "timestamp")
    edit(repository, "timestamp", lambda d: d["signatures"][0].update(sig=bad))
    assert client.refresh() == 0
    assert client.version("timestamp") == 2


@dataclass
class Step:
    """A version of a role: its keys by number, its threshold, and who signs it."""

    keys: str
    threshold: int
    by: str


ROOT_CHAINS = {
    "one key follows another": ([Step("1", 1, "1"), Step("2", 1, "21"), Step("2", 1, "2")], True),
    "strangers sign too": ([Step("1", 1, "314"), Step("2", 1, "3214"), Step("2", 1, "324")], True),
    "any three of five": (
        [Step("01234", 3, "024"), Step("01234", 3, "041"), Step("01234", 3, "013")],
        True,
    ),
    "one of five is replaced": ([Step("01234", 3, "024"), Step("01345", 3, "041")], True),
    "one of five is replaced in two steps": (
        [Step("01234", 3, "024"), Step("01345", 3, "0245"), Step("01345", 3, "045")],
        True,
    ),
    "all five are replaced": (
        [Step("01234", 3, "024"), Step("56789", 3, "024567"), Step("56789", 3, "567")],
        True,
    ),
    "a threshold rises": ([Step("123", 1, "1"), Step("123", 2, "12")], True),
    "a threshold rises with a key": ([Step("1", 1, "1"), Step("12", 2, "12")], True),
    "a threshold falls": ([Step("123", 2, "12"), Step("123", 1, "12"), Step("123", 1, "1")], True),
    "not signed by the old key": ([Step("1", 1, "1"), Step("2", 1, "234")], False),
    "not signed by the new key": ([Step("1", 1, "1"), Step("2", 1, "134")], False),
    "too few of the new keys": ([Step("01234", 3, "024"), Step("01345", 3, "024")], False),
    "too few of the old keys": ([Step("01234", 3, "024"), Step("01345", 3, "045")], False),
    "the new threshold is not reached": ([Step("123", 1, "1"), Step("123", 2, "2")], False),
    "the old threshold is not reached": ([Step("123", 2, "12"), Step("123", 1, "1")], False),
}


@pytest.mark.parametrize(("steps", "holds"), ROOT_CHAINS.values(), ids=list(ROOT_CHAINS))
def test_chains_of_roots(client, repository, steps, holds):
    repository.restart("root")
    for step in steps:
        set_keys(repository, "root", step)
        repository.publish("root")
    assert client.init(repository.metadata("root", 1)) == 0
    assert client.refresh() == (0 if holds else 1)
    assert client.version("root") == (len(steps) if holds else len(steps) - 1)
    assert client.kept("root") == repository.metadata("root", client.version("root"))


ROLE_KEYS = {
    "another key": (Step("2", 1, "2"), True),
    "strangers sign too": (Step("1", 1, "314"), True),
    "strangers sign alone": (Step("2", 1, "134"), False),
    "a former key is one of three": (Step("01345", 3, "024"), False),
    "two of three": (Step("01345", 3, "04"), False),
    **{f"three of five, {by}": (Step("01234", 3, by), True) for by in ("024", "041", "013", "123", "234")},
}  # fmt: skip


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
@pytest.mark.parametrize(("step", "holds"), ROLE_KEYS.values(), ids=list(ROLE_KEYS))
def test_keys_of_the_other_roles(client, repository, role, step, holds):
    assert client.refresh() == 0
    set_keys(repository, role, step)
    repository.publish("root")
    repository.update("targets")
    assert client.refresh() == (0 if holds else 1)
    assert (client.kept(role) == repository.metadata(role)) is holds


def set_keys(repository, role, step: Step) -> None:
    repository.root.roles[role].keyids.clear()
    repository.root.roles[role].threshold = step.threshold
    for number in step.keys:
        repository.root.add_key(signer(f"key {number}").public_key, role)
    repository.signers[role] = [signer(f"key {number}") for number in step.by]


def test_thresholds_of_delegated_roles(client, repository):
    repository.delegate("targets", "A")
    repository.signed["targets"].delegations.roles["A"].threshold = 2
    repository.add("A", "file", b"content")
    repository.update("A", "targets")
    assert client.download("file") == 1
    assert client.version("A") is None
    repository.add_key("A", signer("second A"), "targets")
    repository.update("A", "targets")
    assert client.download("file") == 0
    assert client.files == [b"content"]


def test_a_delegated_role_follows_its_new_key(client, repository):
    repository.delegate("targets", "A")
    repository.add("A", "file", b"content")
    repository.update("A", "targets")
    assert client.download("file") == 0
    repository.signed["targets"].delegations.roles["A"].keyids.clear()
    repository.signers["A"].clear()
    repository.add_key("A", signer("another A"), "targets")
    repository.update("targets")
    assert client.download("file") == 1, "the kept document is signed by the key that is gone"
    repository.update("A")
    assert client.download("file") == 0
