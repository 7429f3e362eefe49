"""The TUF workflow's order, and the search through delegations."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    MetaFile,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from ota.errors import ExpiredError, ThresholdError, VerificationError
from ota.metadata import documents, roots
from ota.verify.trusted_set import TrustedSet

pytestmark = pytest.mark.agent

NOW = 1_800_000_000.0
LATER = documents.moment(NOW + 1_000)


class Repository:
    """A repository whose delegations are free to choose; each role's key has the role's name."""

    def __init__(self, by_name) -> None:
        self.by_name = by_name
        self.roles: dict[str, Targets] = {"targets": self.new()}
        self.asked: list[tuple[str, str]] = []
        self.signed_by: dict[str, str] = {}
        top = {role: [by_name(role).public_key] for role in ("targets", "snapshot", "timestamp")}
        self.root = roots.first(top, signers=[by_name("root")], threshold=1, now=NOW)

    @staticmethod
    def new() -> Targets:
        return Targets(1, expires=LATER, delegations=Delegations(keys={}, roles={}))

    def delegate(
        self, delegator: str, role: str, paths=("*",), *, terminating=False, key=""
    ) -> None:
        self.roles.setdefault(role, self.new())
        public = self.by_name(key or role).public_key
        delegations = self.roles[delegator].delegations
        delegations.keys[public.keyid] = public
        delegations.roles[role] = DelegatedRole(role, [public.keyid], 1, terminating, list(paths))

    def add(self, role: str, path: str) -> None:
        self.roles[role].targets[path] = TargetFile(1, {"sha256": role.ljust(64, "0")}, path)

    def trusted(self) -> TrustedSet:
        self.data = {
            role: documents.write(targets, [self.by_name(self.signed_by.get(role, role))])
            for role, targets in self.roles.items()
        }
        meta = {f"{role}.json": MetaFile(1) for role in self.roles}
        snapshot = documents.write(
            Snapshot(1, expires=LATER, meta=meta), [self.by_name("snapshot")]
        )
        timestamp = documents.write(
            Timestamp(1, expires=LATER, snapshot_meta=MetaFile(1)), [self.by_name("timestamp")]
        )
        trusted = TrustedSet(self.root, now=NOW)
        assert trusted.update_timestamp(timestamp)
        trusted.update_snapshot(snapshot)
        return trusted

    def find(self, path: str) -> str | None:
        """The role that has `path`; what was asked for on the way stands in `asked`."""
        trusted = self.trusted()
        self.asked = []

        def load(role: str, delegator: str) -> None:
            self.asked.append((role, delegator))
            trusted.update_targets(self.data[role], role, delegator)

        found = trusted.find_target(path, load)
        return found.role if found is not None else None

    @property
    def order(self) -> str:
        return "".join(role for role, _ in self.asked if role != "targets")


@pytest.fixture
def repository(by_name) -> Repository:
    return Repository(by_name)


def test_delegations_are_searched_depth_first_in_their_order(repository):
    for delegator, role in (("targets", "A"), ("targets", "B"), ("A", "C"), ("A", "D"), ("C", "E")):
        repository.delegate(delegator, role)
    assert repository.find("nowhere") is None
    assert repository.order == "ACEDB"


def test_a_terminating_role_ends_the_search_but_for_its_own_delegations(repository):
    repository.delegate("targets", "A")
    repository.delegate("targets", "B")
    repository.delegate("A", "C", terminating=True)
    repository.delegate("A", "D")
    repository.delegate("C", "E")
    assert repository.find("nowhere") is None
    assert repository.order == "ACE"


def test_only_roles_whose_paths_match_are_asked(repository):
    repository.delegate("targets", "A", ["*.doc"])
    repository.delegate("targets", "B", ["models/*/*"])
    repository.delegate("B", "C", ["models/x/*"])
    repository.add("C", "models/x/1")
    repository.add("C", "models/y/1")
    repository.add("A", "models/x/2")
    assert repository.find("models/x/1") == "C"
    assert repository.order == "BC"
    assert repository.find("models/y/1") is None
    assert repository.find("models/x/2") is None
    assert repository.find("models/x/1/deeper") is None


def test_the_first_role_that_has_the_path_wins(repository):
    repository.delegate("targets", "A")
    repository.delegate("targets", "B")
    repository.add("A", "p")
    repository.add("B", "p")
    assert repository.find("p") == "A"


def test_cycles_end(repository):
    for delegator, role in (("targets", "A"), ("A", "B"), ("B", "A")):
        repository.delegate(delegator, role)
    assert repository.find("nowhere") is None
    assert len(repository.asked) == 4


def test_endless_delegations_end(repository):
    chain = ["targets", *(f"r{i}" for i in range(60))]
    for delegator, role in pairwise(chain):
        repository.delegate(delegator, role)
    repository.add("r59", "p")
    assert repository.find("p") is None
    assert len(repository.asked) <= 40


def test_a_role_is_verified_again_for_each_delegator(repository):
    repository.delegate("targets", "A")
    repository.delegate("targets", "B")
    repository.delegate("A", "C")
    repository.delegate("B", "C", key="another key")
    with pytest.raises(ThresholdError, match="/C"):
        repository.find("nowhere")
    assert repository.asked[-1] == ("C", "B")


def test_a_role_that_the_snapshot_does_not_list_is_refused(repository):
    repository.delegate("targets", "A")
    trusted = repository.trusted()
    trusted.update_targets(repository.data["targets"])
    trusted.snapshot.meta.pop("A.json")
    with pytest.raises(VerificationError, match="expected it to list A"):
        trusted.update_targets(repository.data["A"], "A", "targets")
    assert trusted.targets("A", "targets") is None
    assert trusted.version_wanted("targets") == 1


def test_a_broken_order_is_the_callers_error(repository):
    trusted = repository.trusted()
    with pytest.raises(RuntimeError):
        trusted.update_root(repository.root)
    with pytest.raises(RuntimeError):
        trusted.update_timestamp(b"")
    trusted.update_targets(repository.data["targets"])
    with pytest.raises(RuntimeError):
        trusted.update_snapshot(b"")
    with pytest.raises(RuntimeError):
        trusted.update_targets(b"", "targets", "B")
    fresh = TrustedSet(repository.root, now=NOW)
    with pytest.raises(RuntimeError):
        fresh.update_snapshot(b"")
    with pytest.raises(RuntimeError):
        fresh.update_targets(b"")


def test_an_expired_timestamp_serves_against_rollback_only(repository):
    old = repository.trusted().files["timestamp.json"]
    trusted = TrustedSet(repository.root, now=NOW + 2_000)
    trusted.remember_timestamp(old)
    with pytest.raises(ExpiredError):
        trusted.update_snapshot(b"")
    new = Timestamp(2, expires=documents.moment(NOW + 9_000), snapshot_meta=MetaFile(1))
    assert trusted.update_timestamp(documents.write(new, [repository.by_name("timestamp")]))


def test_without_a_time_nothing_expires(repository):
    files = repository.trusted().files
    trusted = TrustedSet(files["root.json"], now=None)
    trusted.update_timestamp(files["timestamp.json"])
    trusted.update_snapshot(files["snapshot.json"])
    assert trusted.update_targets(repository.data["targets"]).version == 1


def test_what_was_remembered_and_is_current_need_not_be_fetched(repository):
    files = repository.trusted().files
    trusted = TrustedSet(files["root.json"], now=NOW)
    trusted.remember_timestamp(files["timestamp.json"])
    assert not trusted.update_timestamp(files["timestamp.json"])
    assert trusted.remember_snapshot(files["snapshot.json"])
    assert trusted.update_targets(repository.data["targets"])


def test_what_was_remembered_and_is_damaged_is_forgotten(repository):
    files = repository.trusted().files
    trusted = TrustedSet(files["root.json"], now=NOW)
    trusted.remember_timestamp(b"junk")
    assert trusted.update_timestamp(files["timestamp.json"])
    assert not trusted.remember_snapshot(b"junk")
    trusted.update_snapshot(files["snapshot.json"])
