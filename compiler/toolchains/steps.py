"""Compile steps, named by what they make from what: recipe and source in, a built file out.

Rules:
- A step never runs a tool itself; it calls a toolchain's driver, whose answers are cached by content.
- What a step returns speaks of the file; how the file stands for the model is in its bindings.
- A tool's failure is a `BuildError`, and costs one candidate.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from compiler.errors import BuildError
from compiler.graph.data import Arrays, Samples
from compiler.graph.onnx_model import OnnxModel
from compiler.recipes.catalog import Recipe
from compiler.targets.catalog import Target
from compiler.toolchains import cache, catalog
from fleet.artifact.manifest import Binding, InputSpec, TensorSpec

CALIBRATION_SAMPLES: Final = 200
_MAX_CALIBRATION_BYTES: Final = 256 << 20
_CONVERSION_SAMPLES: Final = 3


@dataclass(frozen=True, kw_only=True)
class Source:
    """What every step starts from."""

    model: OnnxModel
    inputs: list[InputSpec]
    outputs: list[TensorSpec]
    calibration: Samples


@dataclass(frozen=True, kw_only=True)
class Built:
    """A file that a runtime can load, and how it stands for the model.

    Attributes:
        quantized_weights: how many tensors of weights are smaller than float32; None when not counted.
        tools: toolchain name to lock digest, of everything that had a part in it.
        stand_in: what can be judged on this host instead, when the file itself cannot.
        layers_kept_float: operators that stay in float although the recipe is an integer one.
    """

    runtime: str
    member: str
    payload: bytes
    input_bindings: list[Binding] = field(default_factory=list)
    output_bindings: list[Binding] = field(default_factory=list)
    fixed_batch: bool = False
    operators: dict[str, int] = field(default_factory=dict)
    quantized_weights: int | None = None
    tools: dict[str, str] = field(default_factory=dict)
    runtime_version: str = ""
    stand_in: Built | None = None
    layers_kept_float: list[str] = field(default_factory=list)
    build_s: float = 0.0


def build(recipe: Recipe, source: Source, target: Target) -> Built:
    """Make a candidate.

    Raises:
        ToolchainMissingError: a toolchain that the recipe needs is not installed.
        BuildError: a tool failed.
    """
    if recipe.backend == "litert":
        return LiteRtFromOnnx(recipe).run(source)
    if recipe.backend == "onnx":
        return QdqFromOnnx(recipe).run(source)
    return EngineFromOnnx(recipe, target).run(source)


@dataclass(frozen=True)
class LiteRtFromOnnx:
    """A LiteRT file: converted in float, then quantized as the recipe says."""

    recipe: Recipe

    def run(self, source: Source) -> Built:
        """Build it."""
        toolchain = catalog.get("litert")
        shapes = fixed_shapes(source.inputs, source.calibration)
        converted = cache.call(
            toolchain,
            "convert",
            files={
                "model.onnx": source.model.upgraded,
                "samples.npz": sample_file(source.calibration, _CONVERSION_SAMPLES),
            },
            options={"shapes": shapes},
        )
        info, payload, seconds = converted.info, converted.files["model"], converted.wall_s
        inputs, outputs = info["inputs"], info["outputs"]
        if self.recipe.mode != "fp32":
            files = {"model.tflite": payload}
            if self.recipe.calibrated:
                files["samples.npz"] = sample_file(source.calibration, CALIBRATION_SAMPLES)
            options = {**self.recipe.settings, "inputs": inputs}
            quantized = cache.call(toolchain, "quantize", files=files, options=options)
            info, payload = quantized.info, quantized.files["model"]
            inputs = _requantized(inputs, info["inputs"])
            outputs = _requantized(outputs, info["outputs"])
            seconds += quantized.wall_s
        return Built(
            runtime="litert",
            member="model.tflite",
            payload=payload,
            input_bindings=_bindings(inputs, source.inputs),
            output_bindings=_bindings(outputs, source.outputs),
            fixed_batch=any(spec.shape[:1] == [None] for spec in source.inputs),
            operators=info["operators"],
            quantized_weights=int(info["quantized_weights"]),
            tools={toolchain.name: toolchain.lock_sha256},
            layers_kept_float=list(self.recipe.settings.get("float_operators", [])),
            build_s=seconds,
        )


@dataclass(frozen=True)
class QdqFromOnnx:
    """An ONNX file: as it came, or quantized by ONNX Runtime's tools."""

    recipe: Recipe
    tensorrt: bool = False

    def run(self, source: Source) -> Built:
        """Build it."""
        if self.recipe.mode == "fp32":
            return Built(
                runtime="onnxruntime",
                member="model.onnx",
                payload=source.model.data,
                operators=source.model.operators,
            )
        toolchain = catalog.get("onnx")
        files = {"model.onnx": source.model.upgraded}
        if self.recipe.calibrated:
            files["samples.npz"] = sample_file(source.calibration, CALIBRATION_SAMPLES)
        options = {**self.recipe.settings, "tensorrt": self.tensorrt}
        answer = cache.call(toolchain, self.recipe.mode, files=files, options=options)
        return Built(
            runtime="onnxruntime",
            member="model.onnx",
            payload=answer.files["model"],
            operators=answer.info["operators"],
            quantized_weights=int(answer.info["quantized_weights"]),
            tools={toolchain.name: toolchain.lock_sha256},
            build_s=answer.wall_s,
        )


@dataclass(frozen=True)
class EngineFromOnnx:
    """A TensorRT engine ahead of time; the ONNX model that it is built from stands in for it."""

    recipe: Recipe
    target: Target

    def run(self, source: Source) -> Built:
        """Build it."""
        toolchain = catalog.get(self.recipe.backend)
        quantized = QdqFromOnnx(self.recipe, tensorrt=True).run(source)
        profile = self.target.engine
        answer = cache.call(
            toolchain,
            "build",
            files={"model.onnx": quantized.payload},
            options={
                "compute_capabilities": list(profile.compute_capabilities),
                "workspace_mib": profile.workspace_mib,
                "profiles": _profiles(source, profile.max_batch),
            },
        )
        for side, specs in (("inputs", source.inputs), ("outputs", source.outputs)):
            found = {tensor["name"] for tensor in answer.info[side]}
            if found != {spec.name for spec in specs}:
                raise BuildError(f"the engine's {side} are {sorted(found)}, not the model's")
        return Built(
            runtime=self.recipe.backend,
            member="model.engine",
            payload=answer.files["model"],
            operators={"engine layers": int(answer.info["layers"])},
            quantized_weights=quantized.quantized_weights,
            tools={toolchain.name: toolchain.lock_sha256, **quantized.tools},
            runtime_version=str(answer.info["version"]),
            stand_in=quantized,
            build_s=answer.wall_s + quantized.build_s,
        )


def fixed_shapes(inputs: Sequence[InputSpec], calibration: Samples) -> dict[str, list[int]]:
    """Shapes of one sample, for backends whose files take one shape only.

    What varies besides the batch (the batch axis of a state, a length) is fixed to what calibration has.
    """
    feed = calibration.feed(0, 1)
    return {spec.name: list(feed[spec.name].shape) for spec in inputs}


def sample_file(samples: Samples, most: int) -> bytes:
    """Evenly spread samples, one feed each, as an npz with arrays ``INDEX:NAME``."""
    count = min(most, samples.count)
    arrays: Arrays = {}
    size = 0
    for index, at in enumerate(np.linspace(0, samples.count - 1, count).round().astype(int)):
        feed = samples.feed(int(at), int(at) + 1)
        size += sum(array.nbytes for array in feed.values())
        if size > _MAX_CALIBRATION_BYTES and index:
            break
        arrays |= {f"{index}:{name}": array for name, array in feed.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _profiles(source: Source, max_batch: int) -> dict[str, list[list[int]]]:
    """Minimum, optimum and maximum shape of each input that varies."""
    shapes = fixed_shapes(source.inputs, source.calibration)
    only_batch = all(None not in spec.shape[1:] for spec in source.inputs)
    batches = (1, max_batch, max_batch) if source.calibration.batchable and only_batch else (1,) * 3
    return {
        spec.name: [
            [batch, *shapes[spec.name][1:]] if spec.shape[0] is None else shapes[spec.name]
            for batch in batches
        ]
        for spec in source.inputs
        if None in spec.shape
    }


def _bindings(found: Sequence[Mapping[str, Any]], specs: Sequence[TensorSpec]) -> list[Binding]:
    dtypes = {spec.name: spec.dtype for spec in specs}
    return [
        Binding(
            name=one["name"],
            tensor=one["tensor"],
            permutation=list(one["permutation"]),
            file_dtype="" if one["file_dtype"] == dtypes[one["name"]] else one["file_dtype"],
        )
        for one in found
    ]


def _requantized(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Bindings whose tensors a quantizer may have renamed or given another dtype; their order stays."""
    by_tensor = {one["tensor"]: one for one in after}
    if len(before) != len(after):
        raise BuildError(f"expected {len(before)} tensors after quantization, found {len(after)}")
    return [
        {**one, **by_tensor.get(one["tensor"], positional)}
        for one, positional in zip(before, after, strict=True)
    ]
