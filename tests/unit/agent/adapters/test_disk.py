"""The disk: atomic replacement, checksums, and what happens when the system refuses."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters import disk
from agent.errors import DamagedError, DiskError, DiskFullError, RunningError

pytestmark = pytest.mark.agent


def test_a_checked_file_comes_back(tmp_path: Path):
    path = tmp_path / "state"
    assert disk.read_checked(path) is None
    disk.write_checked(path, b"one")
    assert disk.read_checked(path) == (b"one", "")
    disk.write_checked(path, b"two")
    assert disk.read_checked(path) == (b"two", "")
    assert path.stat().st_mode & 0o777 == 0o600


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_any_damage_is_found_and_mended(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, at: int, junk: bytes
):
    path = tmp_path_factory.mktemp("disk") / "state"
    disk.write_checked(path, b"before")
    disk.write_checked(path, body)
    data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(junk)] = junk
    path.write_bytes(bytes(data))
    found = disk.read_checked(path)
    assert found is not None
    if found[1]:
        assert found[0] == b"before"
    else:
        assert found[0] == body


def test_damage_with_nothing_before_is_an_error(tmp_path: Path):
    path = tmp_path / "state"
    disk.write_checked(path, b"one")
    path.write_bytes(b"junk")
    with pytest.raises(DamagedError, match="damaged"):
        disk.read_checked(path)


def test_a_file_that_vanished_is_taken_from_before(tmp_path: Path):
    path = tmp_path / "state"
    disk.write_checked(path, b"one")
    disk.write_checked(path, b"two")
    path.unlink()
    found = disk.read_checked(path)
    assert found is not None
    assert found[0] == b"one"
    assert "missing" in found[1]


WRITER = """
import sys
from pathlib import Path
from agent.adapters import disk
n = 0
while True:
    n += 1
    disk.write_checked(Path(sys.argv[1]), b"%d " % n * 2000)
    print(n, flush=True)
"""


def test_kill_9_leaves_the_old_file_or_the_new_one(tmp_path: Path):
    path = tmp_path / "state"
    for turn in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(10 + 13 * turn):
            last = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().split()
        writer.stdout.close()
        writer.wait()
        last = int(rest[-1]) if rest else last
        found = disk.read_checked(path)
        assert found is not None
        assert found[0] in {b"%d " % n * 2000 for n in (last, last + 1)}
        assert found[1] == ""


def test_a_full_disk_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    path = tmp_path / "state"
    disk.write_checked(path, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="No space"):
            disk.write_checked(path, b"two")
    assert disk.read_checked(path) == (b"one", "")


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_other_refusals_are_errors_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
):
    def fails(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    path = tmp_path / "state"
    disk.write_checked(path, b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(DiskError, match="Read-only"):
            disk.write_checked(path, b"two")
    found = disk.read_checked(path)
    assert found is not None
    assert found[0] == b"one"


def test_room_is_reserved_or_refused(tmp_path: Path):
    path = tmp_path / "part"
    disk.reserve(path, 100_000, margin=0)
    assert path.stat().st_size == 100_000
    part = disk.Part(path)
    part.write(99_990, b"0123456789")
    part.close()
    assert path.read_bytes()[-10:] == b"0123456789"
    with pytest.raises(DiskFullError, match="make room"):
        disk.reserve(tmp_path / "huge", 1 << 60, margin=0)
    assert not (tmp_path / "huge").exists()


def test_one_daemon_per_folder(tmp_path: Path):
    held = disk.lock(tmp_path / "lock")
    with pytest.raises(RunningError, match="stop it first"):
        disk.lock(tmp_path / "lock")
    os.close(held)
    os.close(disk.lock(tmp_path / "lock"))


def test_a_read_only_disk_still_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "lock"
    os.close(disk.lock(path))
    opened = os.open

    def read_only(name: Path, flags: int, *rest: int) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system")
        return opened(name, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    held = disk.lock(path)
    with pytest.raises(RunningError):
        disk.lock(path)
    os.close(held)
