"""Runs one operation of the driver beside it: ``job.json`` in, ``answer.json`` and files out.

Executed inside a toolchain's environment with the work folder as the current one. The module
``driver`` beside this file has ``OPERATIONS``: name to ``function(inputs, outputs, options)``, where
the first two are folders; it returns what the answer should say, files under ``files``. It may list modules
that its operations import as ``PRELOAD``: then they are there before a job is.
"""

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

_PROGRESS_S = 0.1


def main() -> None:
    """Run the job; an exception becomes an answer that says so, and status 1."""
    job = json.loads(Path("job.json").read_text())
    try:
        operation = importlib.import_module("driver").OPERATIONS[job["operation"]]
        answer = {"ok": True, **operation(Path("in"), Path("out"), job["options"])}
    except BaseException as error:  # noqa: BLE001 - tools call sys.exit on bad models, too
        traceback.print_exc()
        said = " ".join(str(error).split())
        answer = {"ok": False, "error": f"{type(error).__name__}: {said[:500]}"}
    partial = Path("answer.json.part")
    partial.write_text(json.dumps(answer))
    partial.replace("answer.json")
    sys.stdout.flush()
    # Not sys.exit: native libraries crash in their destructors, and the answer is complete.
    os._exit(0 if answer["ok"] else 1)


def progress(done: float, total: float, message: str) -> None:
    """Tell whoever called the driver how far its operation is; more than ten times a second it is not said."""
    path, partial = Path("progress.json"), Path("progress.json.part")
    if done < total and path.exists() and time.time() - path.stat().st_mtime < _PROGRESS_S:
        return
    partial.write_text(json.dumps({"done": done, "total": total, "message": message}))
    partial.replace(path)


if __name__ == "__main__":
    main()
