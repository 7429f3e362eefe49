"""Runs the LiteRT driver's conversions one after another, in the toolchain's environment.

usage: coverage_child.py DRIVERS    (a folder with the driver and its modules)

One JSON line in, ``{"folder", "options"}``; one out, as the driver's harness answers. What the tools print goes
to standard error. A crash ends the process, and whoever started it starts another.
"""

import gc
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> None:
    """Answer until there is nothing more to answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, sys.argv[1])
    import litert

    litert.OPERATIONS["probe"](Path(), Path(), {})
    gc.freeze()  # what is imported needs no collecting, and the converter collects often
    for line in sys.stdin:
        job = json.loads(line)
        os.chdir(job["folder"])
        try:
            convert = litert.OPERATIONS["convert"]
            answer = {"ok": True, **convert(Path("in"), Path("out"), job["options"])}
        except BaseException as error:  # noqa: BLE001 - as the harness: tools call sys.exit
            traceback.print_exc()
            lines = str(error).strip().splitlines() or [""]
            answer = {"ok": False, "error": f"{type(error).__name__}: {lines[0][:500]}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
