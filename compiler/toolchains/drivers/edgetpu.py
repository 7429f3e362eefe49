"""Driver of the toolchain ``edgetpu``: int8 LiteRT files for Google's Edge TPU.

Runs as a script of its own (see `compiler.toolchains.driver`); the compiler is a program that the user supplies.
Its command line and its table of operators: Coral's page on the Edge TPU Compiler.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = "edgetpu_compiler"
ROW = re.compile(r"^([A-Z][A-Z0-9_]+)\s+(\d+)\s+(\S.*)$", re.MULTILINE)
ON_TPU = "Mapped to Edge TPU"
OPERATOR = "edgetpu-custom-op"


def run(*arguments: str) -> str:
    """What the program says; an exception when it fails."""
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)  # noqa: T201 - into the driver's log
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason"]
        raise RuntimeError(f"{PROGRAM} ended with status {done.returncode}: {lines[-1]}")
    return done.stdout


def version() -> str:
    """Of the program, as it says it."""
    found = re.search(r"version\s+(\S+)", run("--version"))
    return found[1] if found else "unknown"


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Ask the program for its version."""
    return {"modules": [PROGRAM], "version": version()}


def finish(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite`` to ``model_edgetpu.tflite``; option ``min_runtime_version``, of the TPU's runtime."""
    said = run(
        "--show_operations",
        *("--min_runtime_version", str(options.get("min_runtime_version", 13))),
        *("--out_dir", str(outputs)),
        str(inputs / "model.tflite"),
    )
    made = outputs / "model_edgetpu.tflite"
    if not made.is_file():
        raise RuntimeError(f"{PROGRAM} ended well without a file")
    on_cpu: dict[str, int] = {}
    on_tpu = 0
    for name, count, status in ROW.findall(said):
        if status.strip() == ON_TPU:
            on_tpu += int(count)
        else:
            on_cpu[name] = on_cpu.get(name, 0) + int(count)
    if not on_tpu:
        raise RuntimeError(
            f"{PROGRAM} placed no operator on the TPU: {', '.join(on_cpu) or 'none listed'}"
        )
    return {
        "files": {"model": made.name},
        "version": version(),
        "operators": {OPERATOR: 1, **on_cpu},
        "npu_operators": on_tpu,
        "cpu_operators": on_cpu,
    }


OPERATIONS = {"probe": probe, "finish": finish}
