"""Keys are replaced, lost and stolen; devices follow, and recover."""

from __future__ import annotations

import pytest
from tuf.api.metadata import Metadata

from ota.errors import (
    RollbackRefusedError,
    ThresholdError,
)
from ota.metadata.image import ImageRepository
from ota.verify import trust

pytestmark = pytest.mark.agent

PATH = "digits/1/litert-cpu.outrider"
DAY = 86_400


def replace_key(role, old, new):
    def change(root):
        root.revoke_key(old.public_key.keyid, role)
        root.add_key(new.public_key, role)

    return change


def test_a_root_may_be_replaced_by_its_own_keys_only(fed, by_name):
    swap = replace_key("root", by_name("image root"), by_name("new root"))
    saved = dict(fed.image.files)
    for by in (["new root"], ["image root"], ["mallory", "new root"]):
        fed.image.files, fed.image.root_version = dict(saved), 1
        fed.new_root("image", swap, *map(by_name, by))
        fed.refuses(fed.assign(PATH), ThresholdError, "root.json")
    fed.image.files, fed.image.root_version = dict(saved), 1
    fed.new_root("image", swap, by_name("image root"), by_name("new root"))
    assert trust.versions(fed.accept(fed.assign(PATH)).store)["image/root.json"] == 2


def test_a_gap_in_the_chain_of_roots_is_refused(fed):
    fed.new_root("image", lambda root: setattr(root, "version", 3))
    fed.refuses(fed.assign(PATH), RollbackRefusedError, "expected version 2, found 3")


def test_a_chain_of_roots_is_followed_to_its_end(fed):
    for _ in range(5):
        fed.new_root("image", lambda root: None)
        fed.new_root("director", lambda root: None)
    store = fed.accept(fed.assign(PATH)).store
    versions = trust.versions(store)
    assert (versions["image/root.json"], versions["director/root.json"]) == (6, 6)


def test_a_fast_forward_of_the_timestamp_is_recovered_from_by_a_new_key(fed, by_name):
    mallory = by_name("image timestamp")
    fed.edit("timestamp.json", lambda t: setattr(t, "version", 2**40), mallory, publish=False)
    fed.accept(fed.assign(PATH))
    del fed.image.files["timestamp.json"]
    fed.now += 60
    fed.image.refresh(fed.now)
    fed.refuses(fed.assign(PATH), RollbackRefusedError)

    new = by_name("new timestamp")
    fed.new_root("image", replace_key("timestamp", mallory, new))
    fed.edit("timestamp.json", lambda t: None, new, publish=False)
    assert fed.accept(fed.assign(PATH)).targets


def test_a_fast_forward_of_a_model_is_recovered_from_by_new_snapshot_keys(fed, by_name):
    honest = fed.image.files["digits.json"]
    fed.edit("digits.json", lambda t: setattr(t, "version", 2**40))
    fed.accept(fed.assign(PATH))
    fed.image.files["digits.json"] = honest
    fed.now += 60
    fed.image.refresh(fed.now)
    fed.refuses(fed.assign(PATH), RollbackRefusedError, "digits.json")

    new = by_name("new snapshot")
    fed.new_root("image", replace_key("snapshot", by_name("image snapshot"), new))
    fed.edit("snapshot.json", lambda s: None, new, publish=False)
    data = fed.image.files["snapshot.json"]
    version = Metadata.from_bytes(data).signed.version

    def name_it(timestamp):
        timestamp.snapshot_meta = type(timestamp.snapshot_meta).from_data(version, data, ["sha256"])

    fed.edit("timestamp.json", name_it, publish=False)
    assert fed.accept(fed.assign(PATH)).targets


def test_a_fast_forward_of_the_counter_is_recovered_from_by_a_new_director_key(fed, by_name):
    fed.counter = 2**40
    fed.accept(fed.assign(PATH))
    fed.counter = 1
    fed.now += 60
    fed.refuses(fed.assign(PATH), RollbackRefusedError)

    new = by_name("new director")
    fed.new_root("director", replace_key("targets", by_name("director targets"), new))
    document = Metadata.from_bytes(fed.assign(PATH))
    document.sign(new)
    assert fed.accept(document.to_bytes()).counter == 3


def test_a_revoked_release_key_no_longer_counts_although_its_document_was_stored(fed, by_name):
    def revoke(targets):
        targets.revoke_key(fed.release_signers["digits"].public_key.keyid, "digits")
        targets.add_key(by_name("new release").public_key, "digits")
        targets.version += 1

    fed.edit("targets.json", revoke)
    fed.refuses(fed.assign(PATH), ThresholdError, "digits.json")
    fed.edit("digits.json", lambda t: setattr(t, "version", t.version + 1), by_name("new release"))
    assert fed.accept(fed.assign(PATH)).targets


def test_a_repository_restored_from_a_backup_does_not_lock_devices_out(fed, by_name):
    backup = dict(fed.image.files)
    for n in range(2, 6):
        fed.now += 60
        fed.release("digits", str(n))
    fed.accept(fed.assign("digits/5/litert-cpu.outrider"))

    fed.now += 3_600
    restored = ImageRepository(backup, fed.image._signers)
    fed.image = restored
    fed.release("digits", "6")
    assert fed.accept(fed.assign("digits/6/litert-cpu.outrider")).targets[0].release == "6"
