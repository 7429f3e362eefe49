"""TensorRT without a GPU: the fake modules beside this file, for child processes and for this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FAKES = Path(__file__).parent / "fake_tensorrt"
NAMES = Path(__file__).parent.parent / "data" / "tensorrt"
VERSIONS = ("10.3.0", "11.0.0.114", "11.4.0.106")
ORIN = {"name": "Orin", "capability": [8, 7], "free_mib": 4096, "driver": 12060}
DRIVER = Path(__file__).parents[2] / "agent" / "runtimes" / "tensorrt_driver.py"
PROFILES = {"image": [[1, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8]]}


def names_of(version: str) -> dict[str, Any]:
    """All names of a version, as its own bindings gave them."""
    found: dict[str, Any] = json.loads((NAMES / f"{version}.json").read_text())
    return found


def environment(
    version: str = "10.3.0", *, does: str = "", gpu: dict[str, Any] | None = ORIN
) -> dict[str, str]:
    """Variables that let a child process find the fakes; `gpu` None is a host without a driver."""
    return {
        "PYTHONPATH": str(FAKES),
        "FAKE_TENSORRT": version,
        "FAKE_TENSORRT_DOES": does,
        "FAKE_GPU": json.dumps(gpu) if gpu is not None else "",
    }


def call(
    folder: Path, *arguments: str, env: dict[str, str], options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run the driver as a device does; its answer."""
    argv = [sys.executable, str(DRIVER), *arguments]
    argv += ["--options", json.dumps({"module": "tensorrt", **(options or {})})]
    done = subprocess.run(
        argv, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"stderr": done.stderr}
    assert done.returncode == (0 if found.get("ok") else 1) or "stderr" in found, done.stderr
    return found
