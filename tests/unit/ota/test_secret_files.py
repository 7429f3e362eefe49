"""Secrets are written whole, for their owner only, and never over another's."""

import stat

import pytest

from ota.signing import secret_files


def test_a_secret_is_for_its_owner_only(tmp_path):
    secret_files.write(tmp_path / "deep" / "key", b"one")
    assert stat.S_IMODE((tmp_path / "deep" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "deep").stat().st_mode) == 0o700


def test_the_first_to_create_wins(tmp_path):
    path = tmp_path / "key"
    assert secret_files.create(path, b"first")
    assert not secret_files.create(path, b"second")
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("write", [secret_files.write, secret_files.create])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, write):
    path = tmp_path / "key"

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(secret_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, b"secret")
    assert not list(tmp_path.iterdir())
