"""A medium does no harm to whoever reads it."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.bundle import medium as bundle
from ota.bundle.medium import Medium
from ota.errors import BundleError

pytestmark = pytest.mark.agent
SHA = "ab" * 32


@pytest.fixture
def medium(tmp_path: Path) -> Medium:
    return Medium(tmp_path / "stick", create=True)


def test_what_is_written_is_read_and_is_not_written_twice(medium: Medium):
    assert medium.write(bundle.blob(SHA), b"one")
    assert not medium.write(bundle.blob(SHA), b"two")
    assert medium.read(bundle.blob(SHA), limit=10) == b"one"
    assert medium.read_at(bundle.blob(SHA), 1, 1) == b"n"
    medium.replace(bundle.desired("camera-1"), b"old")
    medium.replace(bundle.desired("camera-1"), b"new")
    assert Medium(medium.root).read(bundle.desired("camera-1"), limit=10) == b"new"
    assert medium.names(("blobs",)) == [SHA]
    assert medium.names(bundle.reports("camera-1")) == []


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="mount the medium"):
        Medium(tmp_path / "nothing")
    with pytest.raises(BundleError, match="make one"):
        Medium(tmp_path)
    (tmp_path / bundle.MARK).write_bytes(b"outrider/bundle/2\n")
    with pytest.raises(BundleError, match="another format"):
        Medium(tmp_path)


def test_a_long_file_is_refused_and_a_missing_one_is_none(medium: Medium):
    medium.write(bundle.blob(SHA), bytes(11))
    with pytest.raises(BundleError, match="at most 10 bytes"):
        medium.read(bundle.blob(SHA), limit=10)
    assert medium.read(bundle.blob("cd" * 32), limit=10) is None


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "linked folder"])
def test_what_is_no_plain_file_is_left_alone(medium: Medium, tmp_path: Path, kind: str):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / SHA).write_bytes(b"of this machine")
    blobs = medium.root / "blobs"
    if kind == "linked folder":
        blobs.symlink_to(secret)
    else:
        blobs.mkdir()
        place = blobs / SHA
        {
            "link": lambda: place.symlink_to(secret / SHA),
            "pipe": lambda: os.mkfifo(place),
            "folder": place.mkdir,
        }[kind]()
    with pytest.raises(BundleError):
        medium.read(bundle.blob(SHA), limit=100)
    if kind == "linked folder":
        with pytest.raises(BundleError):
            medium.write(bundle.blob("cd" * 32), b"anything")
        assert [path.name for path in secret.iterdir()] == [SHA]


@given(st.text(max_size=40) | st.sampled_from(["..", ".", "a/b", "/etc/passwd", "a\0b", "-x"]))
@settings(max_examples=200, deadline=None)
def test_no_name_leaves_the_medium(tmp_path_factory: pytest.TempPathFactory, name: str):
    root = tmp_path_factory.getbasetemp() / "medium"
    medium = Medium(root / "stick", create=True)
    before = {path for path in root.rglob("*") if "stick" not in path.parts}
    try:
        medium.write(("blobs", name), b"x")
    except BundleError:
        pass
    else:
        assert "/" not in name
        assert name != ".."
        assert medium.read(("blobs", name), limit=1) == b"x"
    assert {path for path in root.rglob("*") if "stick" not in path.parts} == before
