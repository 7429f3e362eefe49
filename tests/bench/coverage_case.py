"""One single-operator model of `onnx.backend.test` through the LiteRT path, and what became of it.

Outcomes:
- ``parity``: converted, and the artifact answers as ONNX Runtime does on inputs that the conversion never saw,
  through the code that devices run, in the model's own names, shapes, layouts and dtypes.
- ``refused``: an error that says what is wrong, and no file.
- ``failed``: a crash, a traceback, a refusal without a reason, or a file that answers wrongly.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from agent.runtimes import registry
from agent.runtimes.port import Options
from compiler.errors import DataError
from compiler.graph import onnx_model
from compiler.graph.onnx_model import OnnxModel
from compiler.toolchains import catalog, install
from compiler.toolchains.drivers import litert_layout as layout
from compiler.toolchains.steps import _bindings as bindings
from fleet.artifact import manifest as manifests
from fleet.artifact.manifest import InputSpec, Manifest, Metric, Payload, Tolerance
from fleet.artifact.package import Package
from fleet.errors import OutriderError
from ota.verify import artifact as verify

CHILD = Path(__file__).parent / "coverage_child.py"
FRESH_SEED = 9001
TIMEOUT_S = 120
_JOBS_PER_CHILD = 60


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case.

    Attributes:
        stage: where it ended: load, convert, answer.
        form: ``constants`` where it was converted with all inputs but the first as constants only.
        probes: fresh inputs that it was judged on.
    """

    case: str
    operator: str
    outcome: str
    stage: str
    reason: str = ""
    probes: int = 0
    difference: float = 0.0
    form: str = ""


class Driver:
    """The toolchain's driver in a process that lives for many conversions."""

    def __init__(self) -> None:
        """Not started yet."""
        self._toolchain = catalog.get("litert")
        self._process: subprocess.Popen[str] | None = None
        self._jobs = 0

    def convert(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        """The driver's answer; one that says so when the process died or took too long."""
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        self._jobs += 1
        try:
            process.stdin.write(json.dumps({"folder": str(folder), "options": options}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died()
        ready, _, _ = select.select([process.stdout], [], [], TIMEOUT_S)
        if not ready:
            self.close()
            return {"ok": False, "died": f"took more than {TIMEOUT_S} s"}
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else self._died()
        return answer

    def _died(self) -> dict[str, Any]:
        assert self._process is not None
        status = self._process.wait()
        self.close()
        return {"ok": False, "died": f"the driver ended with status {status}"}

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None or self._jobs >= _JOBS_PER_CHILD:
            self.close()
            self._jobs = 0
            python = install.python(self._toolchain)
            self._process = subprocess.Popen(
                [str(python), "-E", "-s", str(CHILD), str(self._toolchain.driver.parent)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"},
            )
        return self._process

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


def judge(case: Any, driver: Driver) -> Outcome:
    """Take one case all the way; where it is refused, once more with all inputs but the first as constants.

    Cases have even weights as inputs, which models do not.
    """
    first = case.model.graph.node[0].op_type if case.model.graph.node else "-"
    told = {"case": case.name, "operator": operator_of(case.name, first)}
    given = values_of(case)
    outcome = Outcome(**told, **_judged(case.model, given, driver))
    if outcome.outcome != "refused" or len(given) < 2:
        return outcome
    frozen = Outcome(**told, **_judged(*constants_but_first(case.model, given), driver))
    if frozen.outcome == "refused":
        return outcome
    return replace(frozen, form="constants")


def _judged(model_: Any, given: dict[str, Any], driver: Driver) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="outrider-coverage-") as name:
        folder = Path(name)
        (folder / "in").mkdir()
        (folder / "out").mkdir()
        path = folder / "model.onnx"
        path.write_bytes(model_.SerializeToString())
        try:
            model = onnx_model.load(path)
            sample = sample_of(given, model)
        except OutriderError as error:
            reason = str(error).removeprefix(f"{path}: ")
            return {"outcome": "refused", "stage": "load", "reason": reason}
        (folder / "in" / "model.onnx").write_bytes(model.upgraded)
        np.savez(folder / "in" / "samples.npz", **{f"0:{n}": a for n, a in sample.items()})
        shapes = {n: list(a.shape) for n, a in sample.items()}
        answer = driver.convert(folder, {"shapes": shapes})
        if not answer["ok"]:
            return _refusal(answer) | {"stage": "convert"}
        payload = (folder / "out" / "model.tflite").read_bytes()
        return _answers(model, sample, answer, payload) | {"stage": "answer"}


def values_of(case: Any) -> dict[str, Any]:
    """The case's own inputs by name; what is no tensor stays out."""
    constants = {tensor.name for tensor in case.model.graph.initializer}
    names = [info.name for info in case.model.graph.input if info.name not in constants]
    found = {}
    for name, value in zip(names, case.data_sets[0][0], strict=False):
        if isinstance(value, onnx.TensorProto):
            found[name] = onnx.numpy_helper.to_array(value)
        elif isinstance(value, np.ndarray | np.generic):
            found[name] = np.asarray(value)
    return found


def constants_but_first(model: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model with all its inputs but the first as constants, and what is left of its inputs."""
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    first, *others = [info for info in model.graph.input if info.name in given]
    del frozen.graph.input[:]
    frozen.graph.input.extend(
        info for info in model.graph.input if info.name not in {other.name for other in others}
    )
    frozen.graph.initializer.extend(
        onnx.numpy_helper.from_array(given[info.name], info.name) for info in others
    )
    return frozen, {first.name: given[first.name]}


def operator_of(case: str, first: str) -> str:
    """The operator that a case is about: for functions that were written out, the one in its name."""
    return (
        f"{case.removeprefix('test_').split('_expanded')[0]} (expanded)"
        if "_expanded" in case
        else first
    )


def sample_of(given: dict[str, Any], model: OnnxModel) -> dict[str, Any]:
    """The case's own input.

    Raises:
        DataError: it has none that fits the model.
    """
    for spec in model.inputs:
        array = given.get(spec.name)
        if array is None or array.dtype.name != spec.dtype or array.ndim != len(spec.shape):
            raise DataError(f"input {spec.name!r}: expected data of dtype {spec.dtype}, found none")
        if array.size == 0:
            raise DataError(f"input {spec.name!r}: expected values, found the shape {array.shape}")
    return {spec.name: given[spec.name] for spec in model.inputs}


def _refusal(answer: dict[str, Any]) -> dict[str, Any]:
    if "died" in answer:
        return {"outcome": "failed", "reason": answer["died"]}
    kind, _, reason = answer["error"].partition(": ")
    if kind != "ConversionError" or not reason:
        return {"outcome": "failed", "reason": f"not an error of ours: {answer['error']}"}
    return {"outcome": "refused", "reason": reason}


def _answers(
    model: OnnxModel, sample: dict[str, Any], answer: dict[str, Any], payload: bytes
) -> dict[str, Any]:
    """Whether the artifact answers as ONNX Runtime does on inputs that the conversion never saw."""
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.data, quiet, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    worst, probes = 0.0, 0
    try:
        package = _package(model, answer, payload)
        exact = Options(exact=answer["kernels"] == "reference")
        runtime = registry.open_runtime(verify.from_build(package), exact)
        for feed in (sample, *_fresh(sample, session)):
            expected = dict(zip(names, session.run(None, feed), strict=True))
            if feed is not sample and not _keeps_word(model, expected):
                continue  # no input of this model: its own signature says another shape
            found = runtime.run(feed)
            worst = max(worst, *(layout.distance(found[n], expected[n]) for n in names))
            probes += feed is not sample
        runtime.close()
    except (OutriderError, ValueError, RuntimeError, KeyError) as error:
        return {"outcome": "failed", "reason": f"the artifact does not run: {error}"}
    good = worst <= layout.TOLERANCE
    return {
        "outcome": "parity" if good else "failed",
        "reason": "" if good else f"answers differ by {worst:.2g} of their range",
        "probes": probes,
        "difference": worst if np.isfinite(worst) else 1e30,
    }


def _fresh(sample: dict[str, Any], session: Any) -> Iterator[dict[str, Any]]:
    for forms in layout.probe_feeds([sample], FRESH_SEED):
        for feed in forms:
            try:
                session.run(None, feed)
            except Exception:  # noqa: BLE001, S112 - not every value is an input that the model takes
                continue
            yield feed
            break


def _keeps_word(model: OnnxModel, answers: dict[str, Any]) -> bool:
    return all(
        len(spec.shape) == answers[spec.name].ndim
        and all(n in {None, m} for n, m in zip(spec.shape, answers[spec.name].shape, strict=True))
        for spec in model.outputs
    )


def _package(model: OnnxModel, answer: dict[str, Any], payload: bytes) -> Package:
    inputs = [InputSpec(name=s.name, dtype=s.dtype, shape=s.shape) for s in model.inputs]
    manifest = Manifest(
        format=manifests.FORMAT,
        model="case",
        version="1",
        task="one operator",
        target="",
        hardware_classes=[],
        runtime="litert",
        runtime_version="",
        recipe="litert_fp32",
        source_sha256=model.sha256,
        inputs=inputs,
        outputs=model.outputs,
        input_bindings=bindings(answer["inputs"], model.inputs),
        output_bindings=bindings(answer["outputs"], model.outputs),
        payload=Payload(
            member="model.tflite",
            sha256=hashlib.sha256(payload).hexdigest(),
            size_bytes=len(payload),
        ),
        tolerance=Tolerance(cosine_min=-1.0, max_abs=1e30),
        metric=Metric(name="top1", value=0.0, reference=0.0),
        status="candidate",
        licence="",
    )
    return Package(manifest=manifest, payload=payload, golden_inputs={}, golden_outputs={})


def toolchain() -> dict[str, Any]:
    """What was judged: the lock and its versions."""
    found = catalog.get("litert")
    lines = [
        line
        for lock in (*found.locks, *found.locks_any_python)
        for line in lock.read_text().splitlines()
    ]
    pinned = (line.split()[0].split("==") for line in lines if "==" in line.split(" ")[0])
    names = {"onnx", "onnx2tf", "onnxsim", "onnxruntime", "ai-edge-litert", "ai-edge-quantizer"}
    return {
        "name": found.name,
        "lock_sha256": found.lock_sha256,
        "packages": {name: version for name, version in pinned if name in names},
    }


def cases() -> list[Any]:
    """All node cases of `onnx.backend.test`, by name."""
    import warnings

    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cases make infinities on purpose
        found = {case.name: case for case in node.collect_testcases(None)}
    return [found[name] for name in sorted(found)]


def main() -> None:
    """A worker: names of cases on standard input, an outcome per line on standard output."""
    by_name = {case.name: case for case in cases()}
    driver = Driver()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(judge(by_name[line.strip()], driver))), flush=True)
    driver.close()


if __name__ == "__main__":
    main()
