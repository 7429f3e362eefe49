"""A child process that runs the fp32 model on given feeds: golden outputs, and shapes that a file leaves open.

Nothing is known of the model yet but that it parses, so it is not run in the compiler's own process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from compiler.errors import EvaluationError, ModelError
from compiler.graph import data
from compiler.graph.data import Arrays
from compiler.toolchains import own
from compiler.toolchains.process import Limits
from fleet.artifact import package

LIMITS: Final = Limits(wall_s=600, cpu_s=1200, memory_mib=8192)
_ANSWERS: Final = "answers.npz"
_PROBLEM: Final = "problem.json"


def run(model: bytes, feeds: Sequence[Mapping[str, data.Array]], *, work: Path) -> list[Arrays]:
    """Answers of an ONNX model to feeds, in a child process.

    Raises:
        ModelError: ONNX Runtime refuses the model or fails on a feed.
        EvaluationError: the child crashed or broke a limit.
    """
    work.mkdir(parents=True, exist_ok=True)
    (work / "model.onnx").write_bytes(model)
    arrays = {f"{i}:{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
    (work / "feeds.npz").write_bytes(package.npz_bytes(arrays))
    outcome = own.run("compiler.evaluate.probe", folder=work, limits=LIMITS)
    if (work / _PROBLEM).is_file():
        raise ModelError(json.loads((work / _PROBLEM).read_bytes()))
    if outcome.problem:
        raise EvaluationError(
            f"running the fp32 model {outcome.problem}; its last lines:\n{outcome.tail}"
        )
    answers = data.read(work / _ANSWERS)
    for key, array in answers.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ModelError(
                f"the fp32 model: output {key.partition(':')[2]!r}: expected numbers, found NaN on calibration "
                "data; do the data and the pre-processing in outrider.toml fit the model?"
            )
    return split(answers, len(feeds))


def split(arrays: Arrays, count: int) -> list[Arrays]:
    """Arrays named ``INDEX:NAME`` as one dict per index."""
    found: list[Arrays] = [{} for _ in range(count)]
    for key, array in arrays.items():
        index, _, name = key.partition(":")
        found[int(index)][name] = array
    return found


def main() -> int:
    """The child: ``model.onnx`` and ``feeds.npz`` of the current folder to ``answers.npz``."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    loaded = data.read(Path("feeds.npz"))
    feeds = split(loaded, 1 + max(int(key.partition(":")[0]) for key in loaded))
    answers: Arrays = {}
    try:
        session = onnxruntime.InferenceSession(
            "model.onnx", settings, providers=["CPUExecutionProvider"]
        )
        names = [node.name for node in session.get_outputs()]
        for index, feed in enumerate(feeds):
            for name, array in zip(names, session.run(None, feed), strict=True):
                answers[f"{index}:{name}"] = np.asarray(array)
    except Exception as error:  # noqa: BLE001 - its exceptions share no base of their own
        text = f"expected ONNX Runtime to run the model, found: {str(error)[:500]}"
        Path(_PROBLEM).write_text(json.dumps(text))
        return 0
    Path(_ANSWERS).write_bytes(package.npz_bytes(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
