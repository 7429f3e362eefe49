"""A short sample of ONNX's single-operator models through the LiteRT path: none may fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.toolchain, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[3]
EVERY = 149


def test_no_case_of_a_sample_fails(tmp_path: Path) -> None:
    saved = tmp_path / "outcomes.json"
    done = subprocess.run(
        [
            sys.executable, ROOT / "tests" / "bench" / "bench_coverage.py",
            "--sample", str(EVERY), "--processes", "1", "--save", saved,
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert saved.is_file(), done.stdout + done.stderr
    outcomes = json.loads(saved.read_text())
    assert [one for one in outcomes if one["outcome"] == "failed"] == []
    assert sum(one["outcome"] == "parity" for one in outcomes) >= 4
    assert all(one["reason"] for one in outcomes if one["outcome"] == "refused")
    assert done.returncode == 0
