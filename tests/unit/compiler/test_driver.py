"""Drivers that misbehave: exit status 0 proves nothing, and copies are copies."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from compiler.errors import BuildError, ToolchainMissingError
from compiler.toolchains import cache, driver, install
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.process import Limits


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    """A toolchain whose environment is this interpreter's; its driver is written by each test."""
    monkeypatch.setenv("OUTRIDER_TOOLCHAINS", str(tmp_path / "toolchains"))
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    lock = tmp_path / "made.lock"
    lock.write_text("# nothing\n")
    script = tmp_path / "driver.py"
    script.write_text("")
    toolchain = Toolchain(
        name="made", title="for tests", driver=script, locks=(lock,), locks_any_python=(),
        size_mib=0, limits=Limits(wall_s=20, cpu_s=20, memory_mib=512),
    )  # fmt: skip
    home = install.folder(toolchain)
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / install.MARKER).write_text(json.dumps({"packages": {}}))
    return toolchain


def write(toolchain: Toolchain, body: str) -> None:
    code = textwrap.indent(textwrap.dedent(body), "    ")
    toolchain.driver.write_text(
        "import os, sys, json\nfrom pathlib import Path\n"
        f"def go(inputs, outputs, options):\n{code}\n"
        'OPERATIONS = {"go": go}\n'
    )


def call(toolchain: Toolchain, **options: object) -> driver.Answer:
    return driver.call(toolchain, "go", files={"a.bin": b"abc"}, options=options)


def test_files_and_answers_come_back(made: Toolchain) -> None:
    write(
        made,
        """
        (outputs / "b.bin").write_bytes((inputs / "a.bin").read_bytes() * options["times"])
        return {"files": {"model": "b.bin"}, "note": "well"}
        """,
    )
    found = call(made, times=2)
    assert found.files == {"model": b"abcabc"}
    assert found.info["note"] == "well"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no such operator')", "ValueError: no such operator"),
        ("sys.exit('bad model')", "SystemExit: bad model"),
        ("os._exit(0)", "ended with status 0 and no usable answer"),
        ("os._exit(7)", "ended with status 7"),
        ("os.abort()", "was killed by SIGABRT"),
        ("Path('answer.json').write_text('junk'); os._exit(0)", "no usable answer"),
        ("Path('answer.json').write_text('[1]'); os._exit(0)", "no usable answer"),
        ("return {'files': {'model': 'none.bin'}}", "found none under 'none.bin'"),
        ("return {'files': {'model': '../in/a.bin'}}", "found none under '../in/a.bin'"),
        ("return {'files': {'model': 7}}", "found none under 7"),
        ("return {'files': ['model']}", "list files by name"),
        ("(outputs / 'e').touch(); return {'files': {'model': 'e'}}", "non-empty file"),
        (
            "os.symlink('/etc/hostname', outputs / 'l'); return {'files': {'model': 'l'}}",
            "non-empty",
        ),
        ("import time; time.sleep(60)", "ran longer than 2 s"),
    ],
)
def test_each_misbehaviour_is_a_build_error(made: Toolchain, body: str, message: str) -> None:
    write(made, body)
    limits = Limits(wall_s=2, cpu_s=20, memory_mib=512)
    with pytest.raises(BuildError, match=message):
        driver.call(made, "go", files={"a.bin": b"abc"}, options={}, limits=limits)


def test_the_callers_bytes_are_not_touched_and_nothing_is_left(
    made: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    write(made, "(inputs / 'a.bin').write_bytes(b'!'); return {}")
    before = set(tmp_path.iterdir())
    data = b"abc"
    driver.call(made, "go", files={"a.bin": data}, options={})
    assert data == b"abc"
    assert set(tmp_path.iterdir()) == before


def test_a_toolchain_that_is_not_installed_says_how(made: Toolchain) -> None:
    (install.folder(made) / install.MARKER).unlink()
    with pytest.raises(ToolchainMissingError, match="outrider toolchain install made"):
        call(made)


COUNT = """
    with open({log!r}, "a") as log:
        log.write("x")
    (outputs / "b.bin").write_bytes(b"made " + (inputs / "a.bin").read_bytes())
    return {{"files": {{"model": "b.bin"}}, "seen": options}}
"""


def test_the_cache_answers_for_the_same_content_only(made: Toolchain, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(made, COUNT.format(log=str(log)))

    def ask(data: bytes, **options: object) -> driver.Answer:
        return cache.call(made, "go", files={"a.bin": data}, options=options)

    first, again = ask(b"1", bits=8), ask(b"1", bits=8)
    assert first.files == again.files == {"model": b"made 1"}
    assert first.info == again.info
    assert log.read_text() == "x"
    ask(b"2", bits=8)
    ask(b"1", bits=4)
    assert log.read_text() == "xxx"
    made.driver.write_text(made.driver.read_text() + "\n# another driver\n")
    ask(b"1", bits=8)
    assert log.read_text() == "xxxx"


def test_a_damaged_entry_is_made_again(made: Toolchain, tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(made, COUNT.format(log=str(log)))
    cache.call(made, "go", files={"a.bin": b"1"}, options={})
    for file in cache.root().glob("*/*"):
        if file.name != "entry.json":
            file.write_bytes(b"damaged")
    found = cache.call(made, "go", files={"a.bin": b"1"}, options={})
    assert found.files == {"model": b"made 1"}
    assert log.read_text() == "xx"


def test_failures_are_not_kept(made: Toolchain) -> None:
    write(made, "raise ValueError('once')")
    with pytest.raises(BuildError):
        cache.call(made, "go", files={}, options={})
    assert not list(cache.root().glob("*/entry.json"))
