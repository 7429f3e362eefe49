"""Calibration data of a model with states: the fp32 model is run over the sequences, in a child process.

The states that it comes by at each step are recorded with the inputs of that step, so that what is fed to
a quantizer are samples like any other model's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from compiler.errors import EvaluationError, ModelError
from compiler.evaluate.probe import LIMITS
from compiler.graph import data
from compiler.graph import sequences as sequences_
from compiler.graph.data import Array, Arrays
from compiler.toolchains import own
from fleet.artifact import package
from fleet.artifact.manifest import InputSpec

_STATES: Final = "states.json"
_FEEDS: Final = "feeds.npz"
_RECORDED: Final = "recorded.npz"
_PROBLEM: Final = "problem.json"


def record(
    model: bytes,
    path: Path,
    inputs: Sequence[InputSpec],
    states: Mapping[str, str],
    *,
    work: Path,
) -> Path:
    """Samples with the states of every step, as a data file of their own.

    Args:
        model: the fp32 model.
        path: the calibration file, with sequences.
        inputs: the model's.
        states: as ``[states]`` has them.
        work: an empty folder for the child's files and for the result.

    Raises:
        DataError: the data are no sequences for this model.
        ModelError: ONNX Runtime refuses the model, fails on a step, or a state is lost in NaN.
        EvaluationError: the child crashed or broke a limit.
    """
    arrays = data.load(path)
    found = sequences_.sequences(path, arrays, inputs, states)
    work.mkdir(parents=True, exist_ok=True)
    feeds: Arrays = {}
    for lo, hi in found.spans(1):
        feeds |= {f"{lo}:{name}": array for name, array in found.feed(lo, hi).items()}
    (work / "model.onnx").write_bytes(model)
    (work / _STATES).write_bytes(msgspec.json.encode(states))
    (work / _FEEDS).write_bytes(package.npz_bytes(feeds))
    outcome = own.run("compiler.evaluate.unroll", folder=work, limits=LIMITS)
    if (work / _PROBLEM).is_file():
        raise ModelError(msgspec.json.decode((work / _PROBLEM).read_bytes(), type=str))
    if outcome.problem:
        raise EvaluationError(
            f"running the fp32 model over sequences {outcome.problem}; its last lines:\n{outcome.tail}"
        )
    steps, _ = sequences_.flattened(path, arrays, [s for s in inputs if s.name not in states])
    steps.pop("label", None)
    steps |= data.read(work / _RECORDED)
    result = work / "calibration.npz"
    with result.open("wb") as file:
        np.savez(file, allow_pickle=False, **steps)
    return result


def main() -> int:
    """The child: what lies in the current folder to ``recorded.npz``."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    states = msgspec.json.decode(Path(_STATES).read_bytes(), type=dict[str, str])
    recorded: dict[str, list[Array]] = {name: [] for name in states}
    try:
        session = onnxruntime.InferenceSession(
            "model.onnx", settings, providers=["CPUExecutionProvider"]
        )
        for feed in _units(data.read(Path(_FEEDS))):
            for state, array in _steps(session, feed, states):
                recorded[state].append(array)
    except Exception as error:  # noqa: BLE001 - its exceptions share no base of their own
        text = f"expected ONNX Runtime to run the model over sequences, found: {str(error)[:500]}"
        Path(_PROBLEM).write_bytes(msgspec.json.encode(text))
        return 0
    found = {name: np.stack(parts) for name, parts in recorded.items()}
    for name, array in found.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            step = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0])
            text = f"state {name!r}: expected finite numbers at each step, found NaN or infinite at step {step}; "
            text += "do the calibration data fit the model?"
            Path(_PROBLEM).write_bytes(msgspec.json.encode(text))
            return 0
    Path(_RECORDED).write_bytes(package.npz_bytes(found))
    return 0


def _units(arrays: Arrays) -> list[Arrays]:
    """The feeds, in order."""
    found: dict[int, Arrays] = {}
    for key, array in arrays.items():
        index, _, name = key.partition(":")
        found.setdefault(int(index), {})[name] = array
    return [found[index] for index in sorted(found)]


def _steps(session: object, feed: Arrays, states: Mapping[str, str]) -> list[tuple[str, Array]]:
    """The states that each step is fed with."""
    from compiler.evaluate.stepping import Stepping

    watched = _Watched(session, list(states))
    Stepping(watched, states).run(feed)
    return watched.seen


class _Watched:
    """ONNX Runtime as a runtime that remembers which states it was fed."""

    def __init__(self, session: object, states: list[str]) -> None:
        self._session, self._states = session, states
        self.seen: list[tuple[str, Array]] = []

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        self.seen += [(name, np.array(feeds[name])) for name in self._states]
        names = [node.name for node in self._session.get_outputs()]  # type: ignore[attr-defined]
        answers = self._session.run(None, dict(feeds))  # type: ignore[attr-defined]
        return {name: np.asarray(array) for name, array in zip(names, answers, strict=True)}

    def close(self) -> None:
        pass


if __name__ == "__main__":
    sys.exit(main())
