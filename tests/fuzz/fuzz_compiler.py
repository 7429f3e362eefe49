"""A campaign of mutated inputs against the compiler's readers: ``make fuzz-compiler``.

Each input must be read, or be refused with an error of ours; nothing else. Inputs are read in child
processes under a memory limit, as the compiler itself reads models: a native crash is counted and kept,
and fails the campaign only where the product would not contain it.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import random
import re
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import mutations

from compiler.errors import DataError, FolderError, ModelError
from compiler.graph import data, folder, reading
from fleet.artifact.manifest import InputSpec

BATCH = 500
MEMORY_BYTES = 3 << 30
LIMIT_S = 30
KINDS = (
    "model",
    "model",
    "model",
    "model",
    "model",
    "model",
    "model",
    "data",
    "data",
    "description",
)
IMAGE = InputSpec(name="image", dtype="float32", shape=[None, 3, 8, 8])
CONTAINED = ("crash", "memory", "slow")
"""Ends of a model's child process, which the product tells in words."""


def made(seed: int, number: int) -> tuple[str, bytes]:
    """The input of a number."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choice(KINDS)
    make = {
        "model": mutations.model,
        "data": mutations.archive,
        "description": mutations.description,
    }[kind]
    return kind, make(rng)


def outcome(kind: str, content: bytes, work: Path) -> str:
    """What became of an input: ``read``, ``refused: ...`` or ``RAISED ...``."""
    name = {"model": "model.onnx", "data": "calibration.npz", "description": folder.FILE}[kind]
    path = work / name
    path.write_bytes(content)
    try:
        if kind == "model":
            reading.read(path, shown="m")
        elif kind == "data":
            data.samples(path, data.load(path), [IMAGE])
        else:
            folder.load(work)
    except (ModelError, DataError, FolderError) as error:
        return f"refused: {_kind_of(str(error), path)}"
    except MemoryError:
        return "memory"
    except Exception as error:  # noqa: BLE001 - finding these is the point
        return f"RAISED {type(error).__name__}: {str(error)[:200]}"
    return "read"


def _kind_of(message: str, path: Path) -> str:
    """A message without what differs from input to input."""
    text = message.replace(str(path), "").replace(str(path.parent), "").replace("model's", "model")
    text = re.sub(r"'[^']*'|\"[^\"]*\"|b'.*?'|\[[^\]]*\]|\d+", "_", text)
    found = re.search(r"expected [^,(:]{0,40}", text)
    return found[0] if found else text[:60]


def work_off(seed: int, begin: int, end: int, pipe: Any) -> None:
    """A child: read inputs and tell the parent of each, before and after."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "weights.bin").write_bytes(bytes(64))
        for file in ("calibration.npz", "evaluation.npz", "model.onnx"):
            (work / file).write_bytes(b"x")
        for number in range(begin, end):
            kind, content = made(seed, number)
            pipe.send((number, ""))
            signal.alarm(LIMIT_S)
            pipe.send((number, f"{kind}: {outcome(kind, content, work)}"))
            signal.alarm(0)
    pipe.close()


def batch(arguments: tuple[int, int, int]) -> tuple[collections.Counter[str], dict[str, int]]:
    """Inputs `begin` to `end`: outcomes by kind, and one number of each."""
    seed, begin, end = arguments
    counted: collections.Counter[str] = collections.Counter()
    example: dict[str, int] = {}
    while begin < end:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(
            target=work_off, args=(seed, begin, end, theirs)
        )
        child.start()
        theirs.close()
        at, said = begin, "done"
        try:
            while True:
                at, said = ours.recv()
                if said:
                    counted[said] += 1
                    example.setdefault(said, at)
        except EOFError:
            child.join()
        if said:
            break
        code = child.exitcode or 0
        how = (
            "slow"
            if -code == signal.SIGALRM
            else f"crash {signal.Signals(-code).name}"
            if code < 0
            else f"crash {code}"
        )
        name = f"{made(seed, at)[0]}: {how}"
        counted[name] += 1
        example.setdefault(name, at)
        begin = at + 1
    return counted, example


def main() -> int:
    """Run a campaign; exit 1 when an input got through."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the outcomes here, as JSON")
    asked = parser.parse_args()
    begun = time.monotonic()
    end = asked.first + asked.inputs
    parts = [(asked.seed, n, min(n + BATCH, end)) for n in range(asked.first, end, BATCH)]
    counted: collections.Counter[str] = collections.Counter()
    example: dict[str, int] = {}
    done = 0
    with multiprocessing.get_context("fork").Pool(asked.processes, _not_daemonic) as pool:
        for found, examples in pool.imap_unordered(batch, parts):
            counted += found
            example = examples | example
            done += sum(found.values())
            sys.stderr.write(f"\r{done} of {asked.inputs}")
    escaped = [name for name in counted if "RAISED" in name]
    escaped += [
        n for n in counted if not n.startswith("model: ") and any(c in n for c in CONTAINED)
    ]
    report = {
        "inputs": done,
        "seed": asked.seed,
        "wall_s": round(time.monotonic() - begun, 1),
        "escaped": escaped,
        "outcomes": dict(counted.most_common()),
        "first_of_each": {name: example[name] for name, _ in counted.most_common()},
    }
    text = json.dumps(report, indent=1) + "\n"
    if asked.out:
        asked.out.write_text(text)
    sys.stdout.write(f"\n{text}")
    return 1 if escaped or done != asked.inputs else 0


def _not_daemonic() -> None:
    """Let a pool's process have children of its own."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
