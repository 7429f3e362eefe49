"""Tools that users supply: found, never touched, told apart by what can be seen of them."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from compiler.errors import BuildError, ToolchainMissingError
from compiler.toolchains import catalog, driver, install
from compiler.toolchains.catalog import Toolchain

EDGETPU = """\
    #!/bin/sh
    # Speaks as edgetpu_compiler 16 does; "compiles" by appending a line.
    if [ "$1" = "--version" ]; then echo "Edge TPU Compiler version 16.0.384591198"; exit 0; fi
    for last; do true; done
    while [ "$1" != "--out_dir" ]; do shift; done
    {body}
"""
COMPILES = """(cat "$last"; echo compiled) > "$2/model_edgetpu.tflite"
    echo "Edge TPU Compiler version 16.0.384591198"
    echo "Operator                       Count      Status"
    echo "CONV_2D                        9          Mapped to Edge TPU"
    echo "SOFTMAX                        1          Mapped to Edge TPU"
    echo "SIN                            2          Operation not supported"
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, and nowhere else to look."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setenv("OUTRIDER_TOOLCHAINS", str(tmp_path / "toolchains"))
    return place


def program(path: Path, body: str) -> None:
    file = path / "edgetpu_compiler"
    file.write_text(textwrap.dedent(EDGETPU).replace("{body}", body))
    file.chmod(0o755)


def finish(toolchain: Toolchain) -> driver.Answer:
    return driver.call(toolchain, "finish", files={"model.tflite": b"model "}, options={})


def test_a_missing_program_says_what_to_bring(path: Path) -> None:
    toolchain = catalog.get("edgetpu")
    assert not install.is_installed(toolchain)
    with pytest.raises(ToolchainMissingError, match="edgetpu_compiler on the path; found none"):
        finish(toolchain)
    with pytest.raises(ToolchainMissingError, match="which you supply"):
        install.install(toolchain)
    assert install.remove(toolchain) == []


def test_a_program_on_the_path_is_used_and_its_table_read(path: Path) -> None:
    program(path, COMPILES)
    toolchain = catalog.get("edgetpu")
    assert install.is_installed(toolchain)
    assert install.install(toolchain) is False
    found = finish(toolchain)
    assert found.files == {"model": b"model compiled\n"}
    assert found.info["version"] == "16.0.384591198"
    assert found.info["operators"] == {"edgetpu-custom-op": 1, "SIN": 2}
    assert (found.info["npu_operators"], found.info["cpu_operators"]) == (10, {"SIN": 2})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('echo "Invalid model" >&2; exit 1', "ended with status 1: Invalid model"),
        ("exit 0", "ended well without a file"),
        (
            'echo x > "$2/model_edgetpu.tflite"; echo "SIN  2  Operation not supported"',
            "placed no operator on the TPU: SIN",
        ),
    ],
)
def test_a_program_that_misbehaves_is_a_build_error(path: Path, body: str, message: str) -> None:
    program(path, body)
    with pytest.raises(BuildError, match=message):
        finish(catalog.get("edgetpu"))


def test_another_program_is_another_toolchain(path: Path) -> None:
    program(path, COMPILES)
    before = catalog.get("edgetpu").lock_sha256
    assert catalog.get("edgetpu").lock_sha256 == before
    program(path, f"{COMPILES} # another version")
    assert catalog.get("edgetpu").lock_sha256 != before


def environment(place: Path, module: str, version: str) -> Path:
    """A folder as an environment's, with one importable module and its metadata."""
    library = place / "lib" / "python3.11" / "site-packages"
    (library / module).mkdir(parents=True)
    (library / module / "__init__.py").write_text("")
    (library / f"{module}-{version}.dist-info").mkdir()
    python = place / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    return python


def test_an_interpreter_counts_with_what_is_imported_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OUTRIDER_RKNN_PYTHON", raising=False)
    assert "a Python with rknn at $OUTRIDER_RKNN_PYTHON" in install.absence(catalog.get("rknn"))
    other = environment(tmp_path / "other", "numpy", "1.26.4")
    monkeypatch.setenv("OUTRIDER_RKNN_PYTHON", str(other))
    assert not install.is_installed(catalog.get("rknn"))
    right = environment(tmp_path / "right", "rknn", "2.3.0")
    monkeypatch.setenv("OUTRIDER_RKNN_PYTHON", str(right))
    assert install.is_installed(catalog.get("rknn"))
    assert install.python(catalog.get("rknn")) == right
    before = catalog.get("rknn").lock_sha256
    library = right.parent.parent / "lib" / "python3.11" / "site-packages"
    (library / "rknn-2.3.0.dist-info").rename(library / "rknn-2.3.2.dist-info")
    assert catalog.get("rknn").lock_sha256 != before


TOOLCHAIN = """\
title = "A tool elsewhere"
driver = "driver.py"

[supplied]
python = ["$ELSEWHERE_PYTHON", {python!r}]
hint = "the tool"

[supplied.environment]
ELSEWHERE_ROOT = "/opt/elsewhere"

[limits]
wall_s = 30
cpu_s = 30
memory_mib = 512
"""
DRIVER = """\
import os, sys

def finish(inputs, outputs, options):
    (outputs / "m").write_text(os.environ["ELSEWHERE_ROOT"])
    return {"files": {"model": "m"}, "python": sys.executable, "home": os.environ["HOME"]}

OPERATIONS = {"finish": finish}
"""


def test_a_users_tool_installed_elsewhere_runs_with_its_own_interpreter_and_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "mine" / "toolchains"
    place.mkdir(parents=True)
    (place / "elsewhere.toml").write_text(TOOLCHAIN.format(python="/nowhere/python"))
    (place / "driver.py").write_text(DRIVER)
    monkeypatch.setenv("OUTRIDER_PROFILES", str(tmp_path / "mine"))
    with pytest.raises(ToolchainMissingError, match=r"\$ELSEWHERE_PYTHON or /nowhere/python"):
        finish(catalog.get("elsewhere"))
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setenv("ELSEWHERE_PYTHON", str(python))
    found = finish(catalog.get("elsewhere"))
    assert found.files == {"model": b"/opt/elsewhere"}
    assert found.info["python"] == str(python)
    assert found.info["home"] != str(Path.home())
