"""Everything that is known of a model before the first recipe is tried.

The fp32 model in ONNX Runtime is the reference: its golden answers, its metric, its figures. It is
scored as an artifact of its own, by the same child process as every candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from compiler.errors import DataError, EvaluationError, MetricError
from compiler.evaluate import child, evaluation, probe, race, split, unroll
from compiler.evaluate.child import Asked, Evaluation
from compiler.evaluate.evaluation import Checked
from compiler.evaluate.race import Latency
from compiler.evaluate.split import Split
from compiler.graph import data, folder, onnx_model, signature
from compiler.graph.data import Array, Arrays, Samples
from compiler.graph.folder import ModelFolder
from compiler.graph.onnx_model import OnnxModel
from compiler.recipes.catalog import CALIBRATORS
from compiler.service import packing, parallel
from compiler.toolchains.source import Source
from compiler.toolchains.steps import Built
from compiler.toolchains.workshop import Workshop
from fleet.artifact.manifest import InputSpec, TensorSpec
from fleet.artifact.package import Package
from fleet.errors import CallerError

GOLDEN_SAMPLES: Final = 8
_GOLDEN_BYTES: Final = 1 << 20
_HALF: Final = np.uint32(1 << 12)
_KEPT: Final = np.uint32(0xFFFFE000)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A checked folder with its reference.

    Attributes:
        version: the artifact's; the folder's own unless it was overridden.
        golden_inputs, golden_outputs: a few calibration samples and the fp32 model's answers.
        content: the fp32 model as a package.
        reference: what was found of it, over all evaluation samples.
        split: how these are divided.
        recorded: calibration data with the states of each step, of a model that has any.
        digests: sha256 of everything that came from the user.
    """

    folder: ModelFolder
    version: str
    workshop: Workshop
    golden_inputs: Arrays
    golden_outputs: Arrays
    content: Package
    reference: Evaluation
    latency_ms: Latency | None
    split: Split
    digests: dict[str, str]
    recorded: Path | None = None

    @property
    def source(self) -> Source:
        """The model with its signature and calibration data."""
        return self.workshop.source

    @property
    def model(self) -> OnnxModel:
        """The model."""
        return self.source.model


def prepare(
    path: Path,
    *,
    version: str,
    work: Path,
    backends: Sequence[str] = (),
    calibrators: Sequence[str] = CALIBRATORS,
) -> Prepared:
    """Load, check and score a model folder.

    Args:
        path: the folder.
        version: overrides the folder's own; ``1`` when neither says one.
        work: a folder for files that children exchange.
        backends: that will be needed: their float files are made while the fp32 model is scored.
        calibrators: that may be asked for.

    Raises:
        CallerError: a mistake in the folder, the model, the data or the metric.
        EvaluationError: the fp32 model itself could not be scored.
    """
    described = folder.load(path)
    model = onnx_model.load(described.model)
    inputs = signature.input_specs(described, model.inputs)
    checked = evaluation.check(described, model, inputs)
    calibration, recorded = _sampled(described, model, inputs, checked, work=work / "unroll")
    golden_inputs = _golden(calibration)
    feeds = [calibration.feed(0, 1), golden_inputs]
    one, golden_outputs = probe.run(model.data, feeds, work=work / "probe")
    outputs = _outputs(model, one, golden_outputs, batch=_rows(golden_inputs, feeds[0]))
    golden_outputs = {name: _thinned(array) for name, array in golden_outputs.items()}
    source = Source(model=model, inputs=inputs, outputs=outputs, calibration=calibration)
    content = packing.provisional(
        packing.Subject(described, version or described.version or "1", source),
        Built(runtime="onnxruntime", member="model.onnx", payload=model.data),
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
    )
    asked = Asked(model_folder=path, calibration=recorded, part=split.EVERY, measure=True)
    workshop = Workshop(source, calibrators)
    reference, _ = parallel.both(
        lambda: child.evaluate(content, asked, work=work / "reference"),
        lambda: workshop.ahead(backends),
    )
    if reference.result.error:
        raise _blame(reference.result.code)(f"the fp32 model: {reference.result.error}")
    digests = {
        "model": model.sha256,
        folder.FILE: sha256_of(described.toml),
        "calibration": sha256_of(described.calibration),
        "evaluation": sha256_of(described.evaluation),
    }
    return Prepared(
        folder=described,
        version=content.manifest.version,
        workshop=workshop,
        golden_inputs=golden_inputs,
        golden_outputs=golden_outputs,
        content=content,
        reference=reference,
        latency_ms=race.run({"fp32": content}, work=work / "race").get("fp32"),
        split=_split(described, checked, reference, digests["evaluation"]),
        digests=digests,
        recorded=recorded,
    )


def _sampled(
    described: ModelFolder,
    model: OnnxModel,
    inputs: list[InputSpec],
    checked: Checked,
    *,
    work: Path,
) -> tuple[Samples, Path | None]:
    """Calibration samples; of a model with states those that the fp32 model leaves on its way, and their file."""
    if isinstance(checked.calibration, Samples):
        return checked.calibration, None
    path = unroll.record(model.data, described.calibration, inputs, described.states, work=work)
    return data.samples(path, data.load(path), inputs), path


def _split(described: ModelFolder, checked: Checked, reference: Evaluation, sha256: str) -> Split:
    """Rows of a custom metric are divided as they come; a built-in one's samples as the file has them."""
    rows = reference.result.samples
    if described.metric.custom:
        return split.of(rows, sha256, divisible=rows > 0)
    return split.of(checked.evaluation_n, sha256)


def _golden(calibration: Samples) -> Arrays:
    """A few samples, evenly spread, in one batch where the model takes batches."""
    first = calibration.feed(0, 1)
    size = sum(array.nbytes for array in first.values())
    wanted = GOLDEN_SAMPLES if calibration.batchable else 1
    count = max(1, min(wanted, calibration.count, _GOLDEN_BYTES // max(size, 1)))
    at = np.linspace(0, calibration.count - 1, count).round().astype(int)
    feeds = [calibration.feed(int(i), int(i) + 1) for i in at]
    return (
        {name: np.concatenate([feed[name] for feed in feeds]) for name in first}
        if (len(feeds) > 1)
        else feeds[0]
    )


def _thinned(array: Array) -> Array:
    """Large golden answers with the precision of float16, which halves them in the package."""
    if array.dtype != np.float32 or array.nbytes <= _GOLDEN_BYTES:
        return array
    bits = np.ascontiguousarray(array).view(np.uint32)
    return ((bits + _HALF) & _KEPT).view(np.float32)


def _rows(golden: Arrays, one: Arrays) -> tuple[int, int]:
    """First dimension of the golden feed and of a single sample."""
    name = next(iter(one))
    shapes = golden[name].shape, one[name].shape
    return (shapes[0][0] if shapes[0] else 1, shapes[1][0] if shapes[1] else 1)


def _outputs(
    model: OnnxModel, one: Arrays, golden: Arrays, *, batch: tuple[int, int]
) -> list[TensorSpec]:
    """Output signatures as declared, corrected by what was seen: exporters leave shapes open or fix the batch."""
    found = []
    for spec in model.outputs:
        seen = one[spec.name].shape
        shape: list[int | None] = (
            list(spec.shape) if len(spec.shape) == len(seen) else [int(n) for n in seen]
        )
        varies = batch[0] != batch[1] and golden[spec.name].shape[:1] != seen[:1]
        batched = varies or (batch[0] == batch[1] == 1 and _declared_batch(model))
        if shape and batched and seen[0] == 1:
            shape[0] = None
        if one[spec.name].dtype.kind not in "biuf":
            raise DataError(
                f"output {spec.name!r}: expected numbers, found dtype {one[spec.name].dtype}"
            )
        found.append(msgspec.structs.replace(spec, shape=shape))
    return found


def _declared_batch(model: OnnxModel) -> bool:
    return all(spec.shape[:1] == [None] for spec in model.inputs)


def sha256_of(path: Path) -> str:
    """Digest of a file, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blame(code: str) -> type[CallerError | EvaluationError]:
    """Whose fault a child's error is, by its code."""
    by_code = {kind.code: kind for kind in (MetricError, DataError)}
    return by_code.get(code, EvaluationError)
