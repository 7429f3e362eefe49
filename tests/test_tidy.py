"""The house stays tidy: short files and functions, no dead rooms, no vague names, no leaks."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agent", "cloud", "compiler", "fleet", "ota", "simulator")
MODULE = re.compile(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
MAX_FILE_LINES = 500
STANDS_ALONE = {"agent/runtimes/tensorrt_driver.py": 600}  # one script on a device: ADR 0020
MAX_FUNCTION_LINES = 70
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "stuff", "tools"}


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git tracks or would."""
    listed = subprocess.run(
        [shutil.which("git") or "git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    return tuple(path for name in sorted(set(listed)) if (path := ROOT / name).is_file())


def python_files() -> tuple[Path, ...]:
    return tuple(path for path in tracked() if path.suffix == ".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_are_short() -> None:
    found = {relative(path): len(path.read_text().splitlines()) for path in python_files()}
    bounds = {name: STANDS_ALONE.get(name, MAX_FILE_LINES) for name in found}
    assert {name: lines for name, lines in found.items() if lines > bounds[name]} == {}


def test_functions_fit_a_screen() -> None:
    found = {
        f"{relative(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in python_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }
    assert {name: lines for name, lines in found.items() if lines > MAX_FUNCTION_LINES} == {}


def test_names_say_what_is_inside() -> None:
    vague = [relative(path) for path in python_files() if {path.stem, path.parent.name} & VAGUE]
    assert vague == []


def _imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, or starts by a name or a line of code in a string."""
    nodes = list(ast.walk(tree_of(path)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield from MODULE.findall(node.value)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_module_is_used_by_the_product() -> None:
    product = [path for path in python_files() if path.relative_to(ROOT).parts[0] in PACKAGES]
    used = {name for path in product for name in _imported(path)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    started = [*project["scripts"].values(), *project["entry-points"]["outrider.commands"].values()]
    used |= {target.partition(":")[0] for target in started}
    dead = [
        module_of(path)
        for path in product
        if path.name not in ("__init__.py", "__main__.py")
        and 'if __name__ == "__main__":' not in path.read_text()
        and module_of(path) not in used
        and not _loaded_by_path(path)
    ]
    assert dead == []


def _loaded_by_path(path: Path) -> bool:
    """Migrations are found by Alembic in their folder; drivers run inside a toolchain by their path."""
    folders = path.relative_to(ROOT).parts
    return "migrations" in folders or folders[:3] == ("compiler", "toolchains", "drivers")


LEAKS = {
    "a package index or its host": r"(?:pypi|pythonhosted|npmjs|registry\.npm)\.(?:org|com)|--(?:extra-)?index-url\b(?! *\\?$)",
    "something left undone": r"\b(?:TODO|FIXME|XXX)\b|raise NotImplementedError|pragma: no cover",
    "a path of one machine": r"/(?:home/(?!outrider\b)|root/|Users/)\w",
}
TEXT = {".py", ".md", ".toml", ".lock", ".sh", ".in", ".txt", ".html", ".yml", ".yaml", ".css", ".json", ".cfg", ""}  # fmt: skip


@pytest.mark.parametrize("what", LEAKS)
def test_no_leaks(what: str) -> None:
    pattern = re.compile(LEAKS[what])
    found = [
        f"{relative(path)}:{number}: {line.strip()[:120]}"
        for path in tracked()
        if path.suffix in TEXT and path.name not in ("test_tidy.py", "LICENSE")
        for number, line in enumerate(_lines(path), 1)
        if pattern.search(line)
    ]
    assert found == []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except UnicodeDecodeError:
        return []


def test_locks_are_hashed() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        requirements = re.split(r"\n(?=\S)", lock.read_text())
        bare = [text.split()[0] for text in requirements if "--hash=sha256:" not in text]
        assert bare == [], f"{lock.name}: run make lock"
