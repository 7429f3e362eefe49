"""The README's tour, run as it stands: each ``sh`` block in order, in an empty folder with an empty HOME.

A block marked ``background`` runs on, and the next one waits until it is ready. Only the port of the
device's model is changed, so that the test meets nobody.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.toolchains import install

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"^```sh(?P<background> background)?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
READY = (
    "grep -q 'Outrider is running' background-0.log",
    """outrider device list --json | grep -q '"online": true'""",
)
WAIT = "for _ in $(seq 300); do if {condition}; then break; fi; sleep 0.1; done; {condition}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


pytestmark = [pytest.mark.slow, pytest.mark.toolchain, pytest.mark.timeout(600)]


def script(readme: str) -> str:
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p); wait' EXIT"]
    started = 0
    for block in BLOCK.finditer(readme):
        if block["background"]:
            lines.append(f"{block['text'].strip()} > background-{started}.log 2>&1 &")
            ready = READY[started]
            prefix = 'export OUTRIDER_DATA="$PWD/cloud"; ' if started else ""
            lines.append(prefix + WAIT.format(condition=ready))
            started += 1
        else:
            lines.append(block["text"])
    assert started == len(READY)
    return "\n".join(lines)


def test_the_tour_works_as_written(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl: run make test-deps as root")
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "PATH": os.pathsep.join((str(Path(sys.prefix, "bin")), os.environ["PATH"])),
        "HOME": str(home),
        "OUTRIDER_TOOLCHAINS": str(install.root()),
        "COLUMNS": "200",
    }
    readme = (ROOT / "README.md").read_text().replace("8101", str(free_port()))
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-c", script(readme)],
        cwd=tmp_path, env=env, check=False, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    logs = "\n".join(path.read_text()[-2000:] for path in tmp_path.glob("background-*.log"))
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{logs}"
    for expected in ("accepted", "digits@1", "camera-1", "succeeded", "committed", "rolled_back"):
        assert expected in done.stdout
    start = done.stdout.index('{"model_name"')
    answer, _ = json.JSONDecoder().raw_decode(done.stdout, start)
    scores = answer["outputs"][0]["data"]
    assert scores.index(max(scores)) == 0, "the image in the README is a zero"
    assert "http://127.0.0.1" in logs


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        linked = re.findall(r"(?:\]\(|src=\"|srcset=\")(?!https?:)([^)\"#]+)", page.read_text())
        missing = [target for target in linked if not (ROOT / target).exists()]
        assert missing == [], page.name
