"""What all tests share: which parts this machine has, and where the corpus lies.

Rules:
- A marker that names a part skips its tests, with the reason, where the part is missing; with
  OUTRIDER_CI=1 a missing part is a failure. The corpus alone may always be absent.
- Where only the agent's dependencies are installed, only files with agent tests are read, and property
  tests draw fewer examples: they have been drawn in full already.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
# Targets, recipes and toolchains of the person who runs the tests have no part in them.
os.environ["OUTRIDER_PROFILES"] = ""
IN_CI = os.environ.get("OUTRIDER_CI", "") not in ("", "0")
AGENT_ONLY = importlib.util.find_spec("fastapi") is None
settings.register_profile("here", deadline=None)
settings.register_profile("again", deadline=None, max_examples=25)
settings.load_profile("again" if AGENT_ONLY else "here")
_SBIN = ("/usr/sbin", "/usr/local/sbin")


def corpus_folder() -> Path:
    """Where the corpus of real models lies, whether or not it is there."""
    named = os.environ.get("OUTRIDER_CORPUS")
    return Path(named) if named else ROOT.parent / "shared" / "corpus" / "dev"


def postgresql_bin() -> Path | None:
    """The folder with PostgreSQL's server programs; Debian keeps them off PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), *_SBIN)))


def _missing(part: str) -> str:
    """Why tests marked `part` cannot run here; empty when they can."""
    if part == "corpus" and not (corpus_folder() / "README.md").is_file():
        return "no corpus: set OUTRIDER_CORPUS to its folder"
    if part == "browser":
        absent = [name for name in ("chromium", "chromedriver") if _program(name) is None]
        return f"no {' and no '.join(absent)}: run make test-deps as root" if absent else ""
    if part == "mosquitto" and _program("mosquitto") is None:
        return "no mosquitto: run make test-deps as root"
    if part == "postgresql" and postgresql_bin() is None:
        return "no PostgreSQL server: run make test-deps as root"
    if part == "toolchain":
        return _missing_toolchains()
    return ""


def _missing_toolchains() -> str:
    from compiler.toolchains import catalog, install

    locked = [one for one in map(catalog.get, catalog.names()) if one.supplied is None]
    absent = [one.name for one in locked if not install.is_installed(one)]
    return f"no toolchain {', '.join(absent)}: run outrider toolchain install" if absent else ""


_PARTS = ("corpus", "browser", "mosquitto", "postgresql", "toolchain")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out, where only the agent's dependencies are installed, files and folders without agent tests."""
    if not AGENT_ONLY:
        return None
    if collection_path.is_dir():
        return None if any(map(_has_agent_tests, collection_path.rglob("test_*.py"))) else True
    ours = collection_path.name == "conftest.py" or _has_agent_tests(collection_path)
    return None if ours else True


def _has_agent_tests(path: Path) -> bool:
    return path.suffix == ".py" and "pytest.mark.agent" in path.read_text()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose part is missing; fail it in CI."""
    for part in _PARTS:
        if item.get_closest_marker(part) is None:
            continue
        reason = _missing(part)
        if reason and IN_CI and part != "corpus":
            pytest.fail(f"{reason} (in CI a missing part is a failure)", pytrace=False)
        if reason:
            pytest.skip(reason)


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of the corpus, for tests marked so."""
    return corpus_folder()
