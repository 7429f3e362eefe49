"""Documents that are missing, endless, padded or damaged on the disk."""

from __future__ import annotations

import pytest

from ota.errors import (
    DigestError,
    MetadataError,
    VerificationError,
)
from ota.verify import trust

pytestmark = pytest.mark.agent

PATH = "digits/1/litert-cpu.outrider"
DAY = 86_400


def test_what_is_missing_is_named(house):
    house.release("digits", "1")
    image, director = house.documents(house.assign(PATH))
    for file in ("timestamp.json", "snapshot.json", "targets.json", "digits.json"):
        rest = {k: v for k, v in image.items() if k != file}
        with pytest.raises(MetadataError, match=f"image/{file}: expected this document"):
            trust.accept(
                house.store, image=rest, director=director, device="d1", tenant="t1", now=house.now
            )
    with pytest.raises(MetadataError, match="director/targets"):
        trust.accept(house.store, image=image, director={}, device="d1", tenant="t1", now=house.now)


def test_unchanged_documents_need_not_be_sent_again(fed):
    image, director = fed.documents(fed.assign(PATH))
    accepted = trust.accept(
        fed.store, image={}, director=director, device="d1", tenant="t1", now=fed.now
    )
    assert accepted.targets[0].path == PATH
    assert image


def test_endless_documents_are_refused_before_they_are_parsed(fed):
    fed.image.files["timestamp.json"] = b" " * 20_000
    fed.refuses(fed.assign(PATH), MetadataError, "at most 16384 bytes")


def test_padded_documents_are_refused(fed):
    assignment = fed.assign(PATH)
    fed.release("detector", "1")
    fed.image.files["snapshot.json"] += b" "
    fed.refuses(assignment, DigestError, "snapshot.json")


def test_a_tampered_store_is_found_at_boot(fed):
    store = fed.store
    for part in ("image", "director"):
        files = getattr(store, part)
        for name, data in files.items():
            broken = {**files, name: data.replace(b'"version":', b'"version" :', 1)[:-1]}
            damaged = trust.TrustStore(
                image=broken if part == "image" else store.image,
                director=broken if part == "director" else store.director,
                counter=store.counter,
                time_floor=store.time_floor,
            )
            with pytest.raises(VerificationError):
                trust.installed(damaged)


def test_a_store_whose_counter_was_changed_is_found_at_boot(fed):
    store = fed.store
    with pytest.raises(VerificationError, match="assignment 9"):
        trust.installed(
            trust.TrustStore(image=store.image, director=store.director, counter=9, time_floor=0)
        )
