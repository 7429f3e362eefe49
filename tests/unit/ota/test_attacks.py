"""What an attacker may try on the way of metadata to a device, and that nothing comes of it."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Metadata

from fleet.errors import WireError
from fleet.wire import envelope
from ota.errors import (
    ExpiredError,
    MetadataError,
    MismatchError,
    ReleaseError,
    RollbackRefusedError,
    ThresholdError,
    VerificationError,
    WrongDeviceError,
)
from ota.metadata.director import Assigned
from ota.metadata.image import SNAPSHOT_DAYS, TARGETS_DAYS, TIMESTAMP_DAYS
from ota.verify import trust

pytestmark = pytest.mark.agent

PATH = "digits/1/litert-cpu.outrider"
PATH_2 = "digits/2/litert-cpu.outrider"
DAY = 86_400


# --- signatures ------------------------------------------------------------------------------------


def test_an_assignment_signed_by_another_key_is_refused(fed, by_name):
    document = Metadata.from_bytes(fed.assign(PATH))
    document.sign(by_name("mallory"))
    fed.refuses(document.to_bytes(), ThresholdError, "director/targets.json")


def test_a_release_signed_by_another_key_is_refused(fed, by_name):
    assignment = fed.assign(PATH)
    fed.edit("digits.json", lambda t: None, by_name("mallory"))
    fed.refuses(assignment, VerificationError, "digits")


@pytest.mark.parametrize("file", ["timestamp.json", "snapshot.json", "targets.json"])
def test_online_documents_signed_by_another_key_are_refused(fed, by_name, file):
    fed.image.refresh(fed.now)
    assignment = fed.assign(PATH)
    named = file == "targets.json"
    fed.edit(file, lambda s: setattr(s, "version", s.version + 1), by_name("m"), publish=named)
    fed.refuses(assignment, VerificationError, file)


def test_too_few_signatures_are_refused(fed, by_name):
    def two_of_two(root):
        root.add_key(by_name("second").public_key, "timestamp")
        root.roles["timestamp"].threshold = 2

    fed.new_root("image", two_of_two)
    fed.image.refresh(fed.now)
    fed.refuses(fed.assign(PATH), ThresholdError, "signatures of 2 of its role.s keys, found 1")
    fed.edit(
        "timestamp.json",
        lambda t: None,
        by_name("image timestamp"),
        by_name("second"),
        publish=False,
    )
    assert fed.accept(fed.assign(PATH)).targets


# --- rollback, freeze, mix and match ---------------------------------------------------------------


def test_an_older_assignment_is_refused(fed):
    old = fed.assign(PATH)
    fed.now += 5
    fed.accept(fed.assign(PATH))
    fed.refuses(old, RollbackRefusedError)


def test_a_lower_counter_is_refused_even_when_freshly_signed(fed, by_name):
    fed.accept(fed.assign(PATH))
    fed.counter = 0
    fed.now += 60
    low = fed.assign(PATH)
    fed.refuses(low, RollbackRefusedError, "expected version 2 or later, found 1")
    document = Metadata.from_bytes(low)
    document.signed.version = 99
    document.sign(by_name("director targets"))
    fed.refuses(document.to_bytes(), RollbackRefusedError, "counter of 2 or more, found 1")


def test_the_same_counter_cannot_mean_other_targets(fed):
    fed.release("digits", "2")
    fed.counter -= 1
    fed.refuses(fed.assign(PATH_2), RollbackRefusedError, "count on")


def test_the_same_assignment_signed_again_is_accepted(fed):
    fed.counter -= 1
    fed.now += 3 * DAY
    fed.image.refresh(fed.now)
    assert fed.accept(fed.assign(PATH)).counter == 1


def test_an_older_timestamp_is_refused(fed):
    old = fed.image.files["timestamp.json"]
    fed.image.refresh(fed.now)
    fed.accept(fed.assign(PATH))
    fed.image.files["timestamp.json"] = old
    fed.refuses(fed.assign(PATH), RollbackRefusedError, "timestamp.json: expected version")


def test_a_replayed_repository_is_refused(fed):
    old = dict(fed.image.files)
    fed.release("digits", "2")
    fed.accept(fed.assign(PATH_2))
    fed.image.files = old
    fed.refuses(fed.assign(PATH), RollbackRefusedError)


def test_a_snapshot_that_lowers_or_drops_a_model_is_refused(fed):
    fed.release("detector", "1")
    fed.accept(fed.assign(PATH))
    fed.now += 60

    def lower(snapshot):
        snapshot.version += 1_000
        snapshot.meta["detector.json"].version -= 1

    saved = dict(fed.image.files)
    for change in (lower, lambda s: (s.meta.pop("detector.json"), lower_version(s))):
        fed.image.files = dict(saved)
        fed.edit("snapshot.json", change, publish=False)
        data = fed.image.files["snapshot.json"]
        version = Metadata.from_bytes(data).signed.version

        def name_it(timestamp, data=data, version=version):
            timestamp.version += 1_000
            timestamp.snapshot_meta = type(timestamp.snapshot_meta).from_data(
                version, data, ["sha256"]
            )

        fed.edit("timestamp.json", name_it, publish=False)
        fed.refuses(fed.assign(PATH), RollbackRefusedError, "detector.json")


def lower_version(snapshot) -> None:
    snapshot.version += 1_000


def test_documents_of_two_states_do_not_mix(fed):
    old = dict(fed.image.files)
    fed.release("digits", "2")
    new = dict(fed.image.files)
    for file in ("snapshot.json", "digits.json"):
        fed.image.files = {**new, file: old[file]}
        assignment = fed.director.assign(
            "d1",
            "t1",
            50,
            [Assigned(path=PATH_2, sha256="0" * 64, length_bytes=1)],
            fed.now,
        )
        fed.refuses(assignment, VerificationError)


@pytest.mark.parametrize("days", [TIMESTAMP_DAYS, SNAPSHOT_DAYS, TARGETS_DAYS])
def test_a_frozen_repository_expires(fed, days):
    image, _ = fed.documents(b"")
    fed.now += days * DAY + 120
    assignment = fed.assign(PATH)
    fed.image.files.update(image)
    fed.refuses(assignment, ExpiredError)


def test_a_frozen_assignment_expires(fed):
    assignment = fed.assign(PATH)
    fed.now += 8 * DAY
    fed.image.refresh(fed.now)
    fed.refuses(assignment, ExpiredError, "director/targets.json: expired")


def test_a_clock_set_back_revives_nothing(fed):
    assignment = fed.assign(PATH)
    fed.store = trust.raise_floor(fed.store, fed.now + 8 * DAY)
    fed.refuses(assignment, ExpiredError)


def test_the_floor_of_time_never_falls(fed):
    raised = trust.raise_floor(fed.store, fed.now + 10)
    assert trust.raise_floor(raised, 0.0).time_floor == fed.now + 10
    assert fed.accept(fed.assign(PATH)).store.time_floor == fed.store.time_floor


def test_an_expired_root_ends_acceptance_but_not_what_runs(fed):
    fed.now += 4 * 365 * DAY
    fed.image.refresh(fed.now)
    fed.refuses(fed.assign(PATH), ExpiredError, "root.json")
    assert trust.installed(fed.store).targets[0].path == PATH


# --- who it is for, and whether both agree ---------------------------------------------------------


def test_another_devices_assignment_is_refused(fed):
    fed.refuses(fed.assign(PATH, device="d2"), WrongDeviceError, "'d2'")
    fed.refuses(fed.assign(PATH, tenant="t2"), WrongDeviceError, "'t2'")
    fed.refuses(fed.assign(PATH), WrongDeviceError, device="d3")


def test_an_assignment_that_is_bound_to_nobody_is_refused(fed, by_name):
    document = Metadata.from_bytes(fed.assign(PATH))
    del document.signed.unrecognized_fields["x-outrider"]
    document.sign(by_name("director targets"))
    fed.refuses(document.to_bytes(), MetadataError, "x-outrider")


@pytest.mark.parametrize(
    "changes", [{"sha256": "0" * 64}, {"length_bytes": 1}, {"path": "digits/9/litert-cpu.outrider"}]
)
def test_a_director_alone_cannot_invent_an_artifact(fed, changes):
    (honest,) = fed.assigned(PATH)
    fields = {"path": honest.path, "sha256": honest.sha256, "length_bytes": honest.length_bytes}
    fed.counter += 1
    assignment = fed.director.assign(
        "d1", "t1", fed.counter, [Assigned(**(fields | changes))], fed.now
    )
    fed.refuses(assignment, MismatchError)


def test_a_release_key_cannot_sign_for_another_model(fed, by_name):
    fed.release("detector", "1")

    def smuggle(targets):
        (file,) = targets.targets.values()
        file.path = "digits/7/litert-cpu.outrider"
        targets.targets = {file.path: file}

    fed.edit("detector.json", smuggle)
    fed.counter += 1
    (known,) = fed.assigned("digits/1/litert-cpu.outrider")
    smuggled = Metadata.from_bytes(fed.image.files["detector.json"]).signed.targets
    (path,) = smuggled
    assignment = fed.director.assign(
        "d1",
        "t1",
        fed.counter,
        [
            Assigned(
                path=path,
                sha256=smuggled[path].hashes["sha256"],
                length_bytes=smuggled[path].length,
            )
        ],
        fed.now,
    )
    assert known
    fed.refuses(assignment, MismatchError, "image repository does not have it")


def test_a_custom_field_that_names_another_release_is_refused(fed):
    def lie(targets):
        targets.targets[PATH].unrecognized_fields["custom"]["release"] = "99"

    fed.edit("digits.json", lie)
    fed.refuses(fed.assign(PATH), MismatchError, "its custom field says")


def test_two_targets_for_one_model_are_refused(fed, by_name):
    fed.release("digits", "2")
    with pytest.raises(ReleaseError, match="one target per model"):
        fed.assign(PATH, PATH_2)
    document = Metadata.from_bytes(fed.assign(PATH))
    other = Metadata.from_bytes(fed.assign(PATH_2))
    document.signed.targets.update(other.signed.targets)
    document.sign(by_name("director targets"))
    fed.refuses(document.to_bytes(), MismatchError, "one target")


# --- the security floor ----------------------------------------------------------------------------


def test_a_director_may_go_back_to_the_floor_and_no_further(fed):
    fed.release("digits", "2")
    fed.now += 60
    fed.release("digits", "10", floor="2")
    ten = "digits/10/litert-cpu.outrider"
    assert fed.accept(fed.assign(ten)).targets[0].security_floor == "2"
    assert fed.accept(fed.assign(PATH_2)).targets[0].release == "2"
    fed.refuses(fed.assign(PATH), RollbackRefusedError, "security floor")


def test_a_floor_stays_when_later_releases_do_not_name_it(fed):
    fed.release("digits", "2", floor="2")
    fed.now += 60
    fed.release("digits", "3")
    fed.refuses(fed.assign(PATH), RollbackRefusedError, "'2'")
    with pytest.raises(ReleaseError, match="number it higher"):
        fed.release("digits", "1.5")


# --- message keys ----------------------------------------------------------------------------------


def test_the_director_says_who_signs_messages(fed, by_name):
    accepted = fed.accept(fed.assign(PATH))
    key = by_name("messages")._private_key
    sealed = envelope.seal("ack", "d1", b"{}", envelope.signer(key), counter=1)
    assert envelope.unseal(sealed, accepted.message_keys, kind="ack", device="d1", now=0) == b"{}"
    stranger = envelope.signer(by_name("mallory")._private_key)
    forged = envelope.seal("ack", "d1", b"{}", stranger, counter=2)
    with pytest.raises(Exception, match="unknown key"):
        envelope.unseal(forged, accepted.message_keys, kind="ack", device="d1", now=0)


def test_ids_that_are_not_legal_are_never_signed(fed):
    with pytest.raises(WireError):
        fed.director.assign("a/b", "t", 1, [], fed.now)
