"""Latency of several packages, measured turn by turn in one child process.

Rules:
- Every round runs each package once, in an order that is drawn anew (seeded): what else the host does
  falls on all of them alike, so that their ratio holds even where their figures do not.
- One sample, one thread, after a warm-up; medians and 95th percentiles over the rounds.
- A package that crashes the race is out; the others race again without it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from compiler.errors import EvaluationError
from compiler.toolchains import own
from compiler.toolchains.process import Limits
from fleet.artifact import package
from fleet.artifact.package import Package

LIMITS: Final = Limits(wall_s=300, cpu_s=600, memory_mib=8192)
_RESULT: Final = "latency.json"
_STARTED: Final = "started"
_WARM_UP: Final = 3
_ROUNDS: Final = 200
_ROUNDS_AT_LEAST: Final = 7
_BUDGET_S: Final = 1.0
"""Per package."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of one sample on one thread of this host, in milliseconds."""

    p50: float
    p95: float
    rounds: int = 0


def run(packages: Mapping[str, Package], *, work: Path) -> dict[str, Latency]:
    """Race packages; what cannot be run is left out.

    Args:
        packages: by name.
        work: an empty folder for the child's files.
    """
    left = dict(packages)
    while left:
        found, guilty = _race(left, work)
        if guilty is None:
            return found
        left.pop(guilty)
    return {}


def _race(packages: Mapping[str, Package], work: Path) -> tuple[dict[str, Latency], str | None]:
    """Figures, or the name of the package that ended the child."""
    work.mkdir(parents=True, exist_ok=True)
    names = list(packages)
    (work / _STARTED).unlink(missing_ok=True)
    for index, name in enumerate(names):
        (work / f"{index}.outrider").write_bytes(package.write(packages[name]))
    outcome = own.run("compiler.evaluate.race", str(len(names)), folder=work, limits=LIMITS)
    if outcome.problem:
        try:
            return {}, names[int((work / _STARTED).read_text())]
        except (OSError, ValueError, IndexError):
            raise EvaluationError(
                f"measuring latency {outcome.problem}; its last lines:\n{outcome.tail}"
            ) from None
    by_index = msgspec.json.decode((work / _RESULT).read_bytes(), type=dict[str, Latency])
    return {names[int(index)]: latency for index, latency in by_index.items()}, None


def main() -> int:
    """The child: packages ``0.outrider``, ``1.outrider``, ... of the current folder."""
    from agent.runtimes import registry
    from agent.runtimes.port import Options
    from compiler.evaluate.worker import one_sample
    from ota.verify import artifact

    started = Path(_STARTED)
    lanes = []
    for index in range(int(sys.argv[1])):
        started.write_text(str(index))
        content = package.read(Path(f"{index}.outrider").read_bytes())
        runtime = registry.open_runtime(artifact.from_build(content), Options(threads=1))
        feed = one_sample(content)
        for _ in range(_WARM_UP):
            runtime.run(feed)
        lanes.append((runtime, feed))
    times: list[list[float]] = [[] for _ in lanes]
    rng = np.random.default_rng(0)
    end = time.perf_counter() + _BUDGET_S * len(lanes)
    while len(times[0]) < _ROUNDS_AT_LEAST or (
        len(times[0]) < _ROUNDS and time.perf_counter() < end
    ):
        for lane in rng.permutation(len(lanes)):
            if len(times[0]) < _ROUNDS_AT_LEAST:
                started.write_text(str(lane))
            runtime, feed = lanes[lane]
            begun = time.perf_counter()
            runtime.run(feed)
            times[lane].append(1000 * (time.perf_counter() - begun))
    answer = {
        str(index): {
            "p50": float(np.quantile(found, 0.5)),
            "p95": float(np.quantile(found, 0.95)),
            "rounds": len(found),
        }
        for index, found in enumerate(times)
    }
    Path(_RESULT).write_text(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
