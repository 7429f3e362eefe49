"""Archives from anybody: what is a folder comes out as it was, what is an attack comes to nothing."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.errors import InputError
from cloud.services import folders

names = st.text("abcXYZ019._- ü", min_size=1, max_size=12).filter(lambda n: n.strip(". ") == n)
contents = st.dictionaries(names, st.binary(max_size=300), min_size=1, max_size=6)


def archive(path: Path, files: dict[str, bytes], *, reverse: bool = False, level: int = 6) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as out:
        for name in sorted(files, reverse=reverse):
            out.writestr(name, files[name])
    return path


def special(path: Path, name: str, mode: int, data: bytes = b"/etc/passwd") -> Path:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(info, data)
    return path


def listing(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@settings(max_examples=60, deadline=None)
@given(files=contents)
def test_what_was_packed_comes_out(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    packed = archive(folder / "a.zip", files)
    first = folders.digest_of(folders.extract(packed, folder / "first"))
    again = archive(folder / "b.zip", files, reverse=True, level=1)
    assert listing(folder / "first") == files
    second = folders.digest_of(folders.extract(again, folder / "second"))
    assert second == first, "order and compression do not count"
    changed = files | {"zz": b"more"}
    other = archive(folder / "c.zip", changed)
    assert folders.digest_of(folders.extract(other, folder / "third")) != first


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400) | st.binary(max_size=200).map(lambda b: b"PK\x03\x04" + b))
def test_junk_is_an_error_of_ours(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / "a.zip").write_bytes(data)
    with pytest.raises(InputError):
        folders.extract(folder / "a.zip", folder / "out")


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_flipped_byte_is_an_error_of_ours_or_harmless(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    packed = archive(folder / "a.zip", {"outrider.toml": b"x" * 50, "d/model.onnx": b"abc" * 90})
    data = bytearray(packed.read_bytes())
    data[position % len(data)] = value
    packed.write_bytes(bytes(data))
    try:
        folders.extract(packed, folder / "out")
    except InputError:
        return
    inside = (folder / "out").resolve()
    assert all(path.resolve().is_relative_to(inside) for path in inside.rglob("*"))


ESCAPES = [
    "../evil", "/etc/evil", "a/../../evil", "..", "a/..", "C:\\evil", "a\\..\\evil", "C:evil",
    "x" * 256, "/".join("d" * 20),
]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_names_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    packed = special(tmp_path / "a.zip", name, stat.S_IFREG | 0o644)
    with pytest.raises(InputError, match="expected relative paths inside the folder"):
        folders.extract(packed, tmp_path / "in" / "out")
    assert listing(tmp_path) == {"a.zip": packed.read_bytes()}


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_special_files_are_refused(kind: int, tmp_path: Path) -> None:
    packed = special(tmp_path / "a.zip", "link", kind | 0o777)
    with pytest.raises(InputError, match="link or special file 'link'"):
        folders.extract(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_stops_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_RATIO_FREE_BYTES", 1 << 20)
    packed = archive(tmp_path / "a.zip", {"zeros": bytes(64 << 20)}, level=9)
    monkeypatch.setattr(folders, "MAX_RATIO", 100)
    with pytest.raises(InputError, match="inflates to more"):
        folders.extract(packed, tmp_path / "out")
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert written <= packed.stat().st_size * 100 + (2 << 20)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.zip", {str(n): b"" for n in range(folders.MAX_FILES + 1)})
    with pytest.raises(InputError, match="at most 10000 files"):
        folders.extract(packed, tmp_path / "out")


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr("model.onnx", b"one")
        with pytest.warns(UserWarning, match="Duplicate name"):
            out.writestr("model.onnx", b"two")
    (tmp_path / "a.zip").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"'model\.onnx' twice"):
        folders.extract(tmp_path / "a.zip", tmp_path / "out")


def test_a_name_that_is_file_and_folder_is_refused(tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.zip", {"a": b"file", "a/b": b"below a file"})
    with pytest.raises(InputError, match="'a' as both"):
        folders.extract(packed, tmp_path / "out")
