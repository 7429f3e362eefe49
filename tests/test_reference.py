"""The reference says what the code says, and the documentation builds without asking the network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_generated_parts_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generator", "--check"],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"run make docs: {done.stdout}{done.stderr[-2000:]}"


@pytest.mark.slow
def test_documentation_builds_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT, check=True, capture_output=True, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    fetched = r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"'](?:https?:)?//[^\"']+"
    found = {page.name: re.findall(fetched, page.read_text()) for page in pages}
    assert {name: urls for name, urls in found.items() if urls} == {}


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs" / "adr" / "index.md").read_text()
    pages = {path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    assert pages == set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", listed))
    for name in pages:
        text = (ROOT / "docs" / "adr" / name).read_text()
        for heading in ("## Context", "## Decision", "## Consequences"):
            assert heading in text, f"{name} has no {heading!r}"


def test_schemas_are_documents() -> None:
    for path in (ROOT / "docs" / "reference").glob("*.json"):
        assert isinstance(json.loads(path.read_text()), dict)
