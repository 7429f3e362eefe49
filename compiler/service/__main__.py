"""``python -m compiler.service``: one compile as a child process, for whoever runs jobs.

It prints one JSON document per line: ``{"event": "progress", "fraction", "message"}`` as it goes, then
either ``{"event": "done", "report"}`` (status 0) or ``{"event": "failed", "error": {"code", "message",
"retryable"}}`` (status 1). The output folder appears whole or not at all; SIGTERM leaves nothing behind.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from compiler.service import compile as compiling
from fleet.errors import OutriderError


def main(arguments: list[str] | None = None) -> int:
    """Compile, and say how it goes on standard output."""
    parser = argparse.ArgumentParser(prog="python -m compiler.service", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="model folder")
    parser.add_argument("--target", action="append", required=True, help="target; repeatable")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--version", default="", help="overrides the folder's own version")
    parser.add_argument("--recipe", action="append", default=[], help="try this alone; repeatable")
    parser.add_argument("--calibrator", action="append", default=[], help="compare this alone")
    parser.add_argument("--figures", type=Path, help="what devices reported, as JSON")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    request = compiling.Request(
        folder=given.folder,
        targets=given.target,
        out=given.out,
        version=given.version,
        figures=given.figures,
        recipes=given.recipe,
        calibrators=given.calibrator,
    )
    try:
        report = compiling.run(
            request,
            lambda fraction, message: _say(
                event="progress", fraction=round(fraction, 4), message=message
            ),
        )
    except OutriderError as error:
        problem = {"code": error.code, "message": str(error), "retryable": error.retryable}
        _say(event="failed", error=problem)
        return 1
    _say(event="done", report=msgspec.to_builtins(report))
    return 0


def _say(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
