#!/usr/bin/env python3
"""How much of ONNX the LiteRT path converts: every single-operator model of `onnx.backend.test`.

usage: bench_coverage.py [--sample N] [--processes N] [--save FILE] [WORD...]

With words, only cases whose names hold one of them; with ``--sample``, every N-th case. The whole run is saved as
``docs/benchmarks/coverage-litert.json``, from which ``docs/generator`` writes the table of the reference.
Ends with status 1 when any case failed; see `coverage_case` for what counts as what.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import queue
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import coverage_case
import harness

WORKER = Path(__file__).parent / "coverage_case.py"
TIMEOUT_S = 2 * coverage_case.TIMEOUT_S
NICENESS = 5


class Worker:
    """A process that judges cases; a new one when it dies or hangs."""

    def __init__(self) -> None:
        """Not started yet."""
        self._process: subprocess.Popen[str] | None = None

    def judge(self, name: str, operator: str) -> dict[str, Any]:
        """The outcome of a case."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{name}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
        line = process.stdout.readline() if ready else ""
        if line:
            outcome: dict[str, Any] = json.loads(line)
            return outcome
        self.close()
        reason = "crashed" if ready else f"took more than {TIMEOUT_S} s"
        return {
            "case": name,
            "operator": coverage_case.operator_of(name, operator),
            "outcome": "failed",
            "stage": "answer",
            "reason": f"the process that judges it {reason}",
            "probes": 0,
            "difference": 0.0,
            "form": "",
        }

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
            assert self._process.stdout is not None
            self._process.stdout.readline()
        return self._process

    def close(self) -> None:
        """End the process; its driver ends when its standard input does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


def run(chosen: list[Any], processes: int) -> list[dict[str, Any]]:
    """Outcomes of cases, in their order."""
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for case in chosen:
        waiting.put(case)
    found: dict[str, dict[str, Any]] = {}

    def work() -> None:
        worker = Worker()
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                break
            outcome = worker.judge(case.name, case.model.graph.node[0].op_type)
            found[case.name] = outcome
            if outcome["outcome"] == "failed" or len(found) % 100 == 0:
                print(f"{len(found)}/{len(chosen)}", json.dumps(outcome), flush=True)
        worker.close()

    threads = [threading.Thread(target=work) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[case.name] for case in chosen]


def summary(outcomes: list[dict[str, Any]]) -> dict[str, int]:
    """How many of each; of those in parity, how many with constants for all inputs but the first."""
    counts = collections.Counter(one["outcome"] for one in outcomes)
    found = {name: counts.get(name, 0) for name in ("parity", "refused", "failed")}
    found["parity_with_constants"] = sum(one["form"] == "constants" for one in outcomes)
    return found


def publish(outcomes: list[dict[str, Any]], counts: dict[str, int]) -> None:
    """Save the figures of a whole run, a case per line."""
    document = {
        "benchmark": "coverage-litert",
        "machine": harness.machine("onnx", "onnxruntime", "ai-edge-litert", "numpy"),
        "toolchain": coverage_case.toolchain(),
        "counts": counts,
    }
    cases = ",\n".join(json.dumps(one) for one in outcomes)
    text = (
        json.dumps(document, indent=2).removesuffix("\n}") + f',\n  "cases": [\n{cases}\n  ]\n}}\n'
    )
    path = harness.FOLDER / "coverage-litert.json"
    path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def main() -> int:
    """Run, save, and say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=1, metavar="N")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--save", type=Path, help="write the outcomes here, too")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    os.nice(NICENESS)
    every = coverage_case.cases()
    chosen = [c for c in every if not options.words or any(w in c.name for w in options.words)]
    outcomes = run(chosen[:: options.sample], options.processes)
    counts = summary(outcomes)
    print(json.dumps(counts))
    if options.save:
        options.save.write_text(json.dumps(outcomes, indent=1) + "\n")
    if len(outcomes) == len(every):
        publish(outcomes, counts)
    return int(counts["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
