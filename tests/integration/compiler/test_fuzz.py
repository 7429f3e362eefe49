"""The short form of ``make fuzz-compiler``: mutated inputs are read or refused, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parents[2] / "fuzz" / "fuzz_compiler.py"
INPUTS = 1500


def test_mutated_inputs_are_read_or_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "outcomes.json"
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--inputs", str(INPUTS), "--processes", "1", "--out", str(out)],
        capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["inputs"] == INPUTS
    assert found["escaped"] == []
    kinds = {name.split(":")[0] for name in found["outcomes"]}
    assert kinds == {"model", "data", "description"}
    assert found["outcomes"]["model: read"] > 0, "mutations that break everything find nothing"
