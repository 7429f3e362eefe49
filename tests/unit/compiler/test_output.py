"""The output folder appears whole, and never over something that is not ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.errors import OutputError
from compiler.service import output


def write(out: Path, files: dict[str, bytes]) -> None:
    output.check(out)
    with output.beside(out) as work:
        output.write(out, files, work=work)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_output_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    write(out, {"report.json": b"1", "old.outrider": b"x"})
    write(out, {"report.json": b"2", "new.outrider": b"y"})
    assert names(out) == {"report.json", "new.outrider"}
    assert (out / "report.json").read_bytes() == b"2"
    assert names(out.parent) == {"out"}


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(OutputError, match="found other files"):
        output.check(out)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="found a file"):
        output.check(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be written"):
        output.check(tmp_path / "file" / "out")


def test_a_failure_in_between_leaves_the_earlier_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, {"report.json": b"1"})

    def fail() -> None:
        with output.beside(out):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (out / "report.json").read_bytes() == b"1"
    assert names(tmp_path) == {"out"}
