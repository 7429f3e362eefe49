from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota.errors import MetadataError, ReleaseError
from ota.metadata import release
from ota.metadata.documents import next_version
from ota.metadata.image import ImageRepository
from ota.metadata.release import release_order

pytestmark = pytest.mark.agent

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
RELEASES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", fullmatch=True)
TAKEN = {"root", "targets", "snapshot", "timestamp"}


@given(NAMES.filter(lambda n: n not in TAKEN), RELEASES, NAMES)
def test_target_paths_can_be_taken_apart(model: str, number: str, target: str):
    path = release.target_path(model, number, target)
    assert release.parse_path(path) == (model, number, target)


@given(st.text(max_size=40) | st.from_regex(r"[a-z./]{0,20}\.outrider", fullmatch=True))
def test_what_parses_is_what_would_be_built(path: str):
    try:
        parts = release.parse_path(path)
    except MetadataError:
        return
    assert release.target_path(*parts) == path


@pytest.mark.parametrize("model", [*sorted(TAKEN), "", "a/b", "a b", "ä", "x" * 65, "a\n"])
def test_names_that_cannot_be_a_role_are_refused(model: str):
    with pytest.raises(ReleaseError, match="rename"):
        release.target_path(model, "1", "t")


@pytest.mark.parametrize(("number", "target"), [("", "t"), ("1/2", "t"), ("1", ""), ("1", "a.b")])
def test_other_names_are_checked_too(number: str, target: str):
    with pytest.raises(ReleaseError):
        release.target_path("m", number, target)


def test_releases_are_ordered_as_people_number_them():
    ordered = ["", "1", "1.9", "1.10", "2-rc1", "2.0", "2.0.1", "10"]
    assert sorted(set(ordered), key=release_order) == ordered


@given(RELEASES, RELEASES, RELEASES)
def test_any_two_releases_can_be_ordered(a: str, b: str, c: str):
    x, y, z = sorted(map(release_order, (a, b, c)))
    assert x <= y <= z
    assert x <= z
    assert release_order(a) <= release_order(a + "1")


@given(st.integers(1, 2**40), st.floats(0, 2**33))
def test_versions_grow_and_follow_the_time(last: int, now: float):
    version = next_version(last, now)
    assert version > last
    assert version >= int(now)


def test_a_release_is_signed_once_and_not_changed(house):
    house.release("digits", "1")
    before = house.image.target("digits/1/litert-cpu.outrider")
    house.release("digits", "1")
    assert house.image.target("digits/1/litert-cpu.outrider") == before
    other = release.ReleaseFile(
        target="litert-cpu",
        sha256="0" * 64,
        length_bytes=1,
        blocks_sha256="1" * 64,
        blocks_length_bytes=1,
        block_size_bytes=16_384,
        runtime="litert",
        hardware_classes=["cpu-arm64"],
    )
    with pytest.raises(ReleaseError, match="other bytes"):
        house.image.add_release("digits", "1", [other], house.release_signers["digits"], house.now)


def test_models_are_added_once_and_before_their_releases(house, by_name):
    house.release("digits", "1")
    assert house.image.models == ["digits"]
    assert [k.keyid for k in house.image.release_keys("digits")] == [
        by_name("release digits").public_key.keyid
    ]
    with pytest.raises(ReleaseError, match="release it instead"):
        house.image.add_model("digits", by_name("x"), house.now)
    with pytest.raises(ReleaseError, match="push it first"):
        house.image.add_release("detector", "1", [], by_name("x"), house.now)
    assert house.image.target("detector/1/t.outrider") is None
    assert house.image.release_keys("detector") == []


def test_changes_name_exactly_the_documents_that_changed(house, by_name):
    before = dict(house.image.files)
    changed = house.image.add_model("digits", by_name("r"), house.now)
    after = house.image.files
    assert {n: d for n, d in after.items() if before.get(n) != d} == changed
    assert set(changed) == {"targets.json", "digits.json", "snapshot.json", "timestamp.json"}
    assert set(house.image.refresh(house.now)) == {"snapshot.json", "timestamp.json"}


def test_a_device_gets_only_the_roots_it_lacks_and_the_models_it_runs(house):
    house.release("digits", "1")
    house.release("detector", "1")
    house.new_root("image", lambda root: None)
    sent = house.image.for_device(["digits"], root_version=1)
    assert set(sent) == {
        "2.root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
        "digits.json",
    }


def test_a_repository_is_loaded_from_its_documents(house):
    house.release("digits", "1")
    again = ImageRepository(house.image.files, house.image._signers)
    assert again.files == house.image.files
    with pytest.raises(MetadataError, match=r"1\.root\.json"):
        ImageRepository({}, house.image._signers)
    rest = {k: v for k, v in house.image.files.items() if k != "targets.json"}
    with pytest.raises(MetadataError, match=r"targets\.json"):
        ImageRepository(rest, house.image._signers)


def test_a_floor_above_the_release_itself_is_refused(house):
    with pytest.raises(ReleaseError, match="number it higher"):
        house.release("digits", "1", floor="2")
