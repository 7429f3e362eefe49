"""The order in which documents are trusted, and what is remembered of those before."""

from __future__ import annotations

import pytest
from support.tuf_repository import Repository

from ota.errors import ExpiredError, ThresholdError, VerificationError
from ota.verify.trusted_set import TrustedSet

pytestmark = pytest.mark.agent

NOW = 1_800_000_000.0


@pytest.fixture
def repository() -> Repository:
    return Repository(NOW)


def trusted_of(repository: Repository, *, now: float | None = NOW, upto: str = "targets"):
    """A set that has taken the documents up to one of them."""
    trusted = TrustedSet(repository.metadata("root", 1), now=now)
    trusted.update_timestamp(repository.metadata("timestamp"))
    if upto != "timestamp":
        trusted.update_snapshot(repository.metadata("snapshot"))
    if upto == "targets":
        trusted.update_targets(repository.metadata("targets"))
    return trusted


def test_a_broken_order_is_the_callers_error(repository):
    trusted = trusted_of(repository, upto="snapshot")
    with pytest.raises(RuntimeError):
        trusted.update_root(repository.metadata("root", 1))
    with pytest.raises(RuntimeError):
        trusted.update_timestamp(b"")
    trusted.update_targets(repository.metadata("targets"))
    with pytest.raises(RuntimeError):
        trusted.update_snapshot(b"")
    with pytest.raises(RuntimeError):
        trusted.update_targets(b"", "targets", "B")
    fresh = TrustedSet(repository.metadata("root", 1), now=NOW)
    with pytest.raises(RuntimeError):
        fresh.snapshot_wanted()
    with pytest.raises(RuntimeError):
        fresh.update_snapshot(b"")
    with pytest.raises(RuntimeError):
        fresh.update_targets(b"")


def test_an_expired_timestamp_serves_against_rollback_only(repository):
    old = repository.metadata("timestamp")
    later = repository.expires.timestamp() + 1
    trusted = TrustedSet(repository.metadata("root", 1), now=later - 10)
    trusted.remember_timestamp(old)
    trusted = TrustedSet(repository.metadata("root", 1), now=later)
    with pytest.raises(ExpiredError, match="root"):
        trusted.settle_root()


def test_without_a_time_nothing_expires(repository):
    assert trusted_of(repository, now=None).targets("targets").version == 1


def test_what_was_remembered_and_is_current_need_not_be_fetched(repository):
    trusted = TrustedSet(repository.metadata("root", 1), now=NOW)
    trusted.remember_timestamp(repository.metadata("timestamp"))
    assert not trusted.update_timestamp(repository.metadata("timestamp"))
    assert trusted.remember_snapshot(repository.metadata("snapshot"))
    assert trusted.update_targets(repository.metadata("targets"))


def test_what_was_remembered_and_is_damaged_is_forgotten(repository):
    trusted = TrustedSet(repository.metadata("root", 1), now=NOW)
    trusted.remember_timestamp(b"junk")
    assert trusted.update_timestamp(repository.metadata("timestamp"))
    assert not trusted.remember_snapshot(b"junk")
    trusted.update_snapshot(repository.metadata("snapshot"))


def test_a_role_is_trusted_in_the_eyes_of_one_delegators_document(repository):
    repository.delegate("targets", "A")
    repository.delegate("A", "C")
    repository.delegate("targets", "B")
    repository.delegate("B", "C")
    repository.signers["C"].pop()
    repository.update("A", "B", "C", "targets")
    trusted = trusted_of(repository)
    for role in ("A", "B"):
        trusted.update_targets(repository.metadata(role), role, "targets")
    held = trusted.update_targets(repository.metadata("C"), "C", "A")
    assert trusted.targets("C", "A") is held
    assert trusted.targets("C", "B") is None
    with pytest.raises(ThresholdError, match="/C"):
        trusted.update_targets(repository.metadata("C"), "C", "B")
    trusted.update_targets(repository.metadata("A"), "A", "targets")
    assert trusted.targets("C", "A") is None, "A's document was read anew and may say other things"


def test_a_role_that_the_snapshot_does_not_list_is_refused(repository):
    repository.delegate("targets", "A")
    repository.update("targets")
    trusted = trusted_of(repository)
    with pytest.raises(VerificationError, match="expected it to list A"):
        trusted.update_targets(b"", "A", "targets")
    assert trusted.targets("A", "targets") is None
    assert trusted.targets_wanted("targets").version == 2
