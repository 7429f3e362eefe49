"""What every benchmark shares: interleaved timing, the machine's description, one JSON file each.

Rules:
- A figure is a ratio against a peer or a limit that ran in the same process, taking turns with it, so
  that a machine whose speed drifts does not favour either.
- The raw medians are saved beside the ratios; nothing here passes or fails.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "benchmarks"


def interleaved(
    contestants: dict[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call by `clock`, the contestants taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(warmup + rounds):
        for name, call in contestants.items():
            started = clock()
            call()
            elapsed = clock() - started
            if round_number >= warmup:
                seconds[name].append(elapsed)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, extremes and 95th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "median_ms": round(statistics.median(ordered) * 1e3, 4),
        "min_ms": round(ordered[0] * 1e3, 4),
        "p95_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1e3, 4),
        "max_ms": round(ordered[-1] * 1e3, 4),
    }


def machine(*packages: str) -> dict[str, Any]:
    """What this ran on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line
            for line in cpuinfo.read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def save(name: str, figures: dict[str, Any], *packages: str) -> None:
    """Print the figures and save them as ``docs/benchmarks/NAME.json``."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": name, "machine": machine(*packages), **figures}
    text = json.dumps(document, indent=2) + "\n"
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
