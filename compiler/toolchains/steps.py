"""Compile steps, named by what they make from what: a variant in, a built file out.

Rules:
- A step never runs a tool itself; it calls a toolchain's driver, whose answers are cached by content.
- What a step returns speaks of the file; how the file stands for the model is in its bindings.
- A tool's failure is a `BuildError`, and costs one candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compiler.errors import BuildError
from compiler.recipes.catalog import Recipe
from compiler.recipes.variant import Variant
from compiler.targets.catalog import Target
from compiler.toolchains import cache, catalog, source
from compiler.toolchains.workshop import Workshop
from fleet.artifact.manifest import Binding, TensorSpec


@dataclass(frozen=True, kw_only=True)
class Built:
    """A file that a runtime can load, and how it stands for the model.

    Attributes:
        quantized_weights: how many tensors of weights are smaller than float32; None when not counted.
        layers: that are quantized, by the driver's names.
        fallen: layers on which the quantizer raised and that stay in float, with its reason.
        tools: toolchain name to lock digest, of everything that had a part in it.
        stand_in: what can be judged on this host instead, when the file itself cannot.
        info: what else a finishing toolchain said of its file.
    """

    runtime: str
    member: str
    payload: bytes
    input_bindings: list[Binding] = field(default_factory=list)
    output_bindings: list[Binding] = field(default_factory=list)
    fixed_batch: bool = False
    operators: dict[str, int] = field(default_factory=dict)
    quantized_weights: int | None = None
    layers: list[str] = field(default_factory=list)
    fallen: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    runtime_version: str = ""
    stand_in: Built | None = None
    info: dict[str, Any] = field(default_factory=dict)
    build_s: float = 0.0


def build(variant: Variant, workshop: Workshop, target: Target) -> Built:
    """Make a candidate.

    Raises:
        ToolchainMissingError: a toolchain that the recipe needs is not installed.
        BuildError: a tool failed.
    """
    recipe = variant.recipe
    if recipe.backend == "litert":
        return LiteRtFromOnnx(variant).run(workshop)
    if recipe.backend == "onnx":
        return QdqFromOnnx(variant).run(workshop)
    stand_in = build(replace(variant, recipe=_base(recipe)), workshop, target)
    return FinishedFromFile(recipe, target).run(workshop, stand_in)


@dataclass(frozen=True)
class LiteRtFromOnnx:
    """A LiteRT file: converted in float, then quantized as the variant says."""

    variant: Variant

    def run(self, workshop: Workshop) -> Built:
        """Build it."""
        start = workshop.litert
        info, payload, seconds = start.info, start.payload, start.seconds
        inputs, outputs = info["inputs"], info["outputs"]
        if self.variant.recipe.mode != "fp32":
            quantized = workshop.quantize(self.variant)
            info, payload = quantized.info, quantized.files["model"]
            inputs = _requantized(inputs, info["inputs"])
            outputs = _requantized(outputs, info["outputs"])
            seconds += quantized.wall_s
        specs = workshop.source
        return Built(
            runtime="litert",
            member="model.tflite",
            payload=payload,
            input_bindings=_bindings(inputs, specs.inputs),
            output_bindings=_bindings(outputs, specs.outputs),
            fixed_batch=any(spec.shape[:1] == [None] for spec in specs.inputs),
            operators=info["operators"],
            quantized_weights=int(info["quantized_weights"]),
            layers=_layers(info),
            fallen=dict(info.get("fallen", {})),
            tools={start.toolchain.name: start.toolchain.lock_sha256},
            build_s=seconds,
        )


@dataclass(frozen=True)
class QdqFromOnnx:
    """An ONNX file: as it came, or made smaller by ONNX Runtime's tools."""

    variant: Variant

    def run(self, workshop: Workshop) -> Built:
        """Build it."""
        model = workshop.source.model
        if self.variant.recipe.mode == "fp32":
            return Built(
                runtime="onnxruntime",
                member="model.onnx",
                payload=model.data,
                operators=model.operators,
            )
        start, quantized = workshop.onnx, workshop.quantize(self.variant)
        return Built(
            runtime="onnxruntime",
            member="model.onnx",
            payload=quantized.files["model"],
            operators=quantized.info["operators"],
            quantized_weights=int(quantized.info["quantized_weights"]),
            layers=_layers(quantized.info),
            fallen=dict(quantized.info.get("fallen", {})),
            tools={start.toolchain.name: start.toolchain.lock_sha256},
            build_s=start.seconds + quantized.wall_s,
        )


@dataclass(frozen=True)
class FinishedFromFile:
    """A file for hardware that this host is not, from one that this host can judge in its place.

    A recipe without a toolchain is finished by the device: its payload is the judged file itself.
    """

    recipe: Recipe
    target: Target

    def run(self, workshop: Workshop, stand_in: Built) -> Built:
        """Build it."""
        if not self.recipe.toolchain:
            return replace(
                stand_in, runtime=self.recipe.runtime, member=self.recipe.member, stand_in=stand_in
            )
        toolchain = catalog.get(self.recipe.toolchain)
        engine = self.target.engine
        answer = cache.call(
            toolchain,
            "finish",
            files={stand_in.member: stand_in.payload},
            options={
                **self.recipe.settings,
                **engine.settings,
                "compute_capabilities": list(engine.compute_capabilities),
                "workspace_mib": engine.workspace_mib,
                "profiles": source.profiles(workshop.source, engine.max_batch),
            },
        )
        self._check(workshop, answer.info)
        return replace(
            stand_in,
            runtime=self.recipe.runtime,
            member=self.recipe.member,
            payload=answer.files["model"],
            operators=dict(answer.info.get("operators", stand_in.operators)),
            tools={toolchain.name: toolchain.lock_sha256, **stand_in.tools},
            runtime_version=str(answer.info.get("version", "")),
            stand_in=stand_in,
            info=answer.info,
            build_s=answer.wall_s + stand_in.build_s,
        )

    def _check(self, workshop: Workshop, info: Mapping[str, Any]) -> None:
        """The finished file must have the model's own inputs and outputs, where its driver lists them."""
        sides = (("inputs", workshop.source.inputs), ("outputs", workshop.source.outputs))
        for side, specs in sides:
            found = {str(tensor["name"]) for tensor in info.get(side, [])}
            if found and found != {spec.name for spec in specs}:
                raise BuildError(f"the finished file's {side} are {sorted(found)}, not the model's")


def _base(recipe: Recipe) -> Recipe:
    if recipe.base is None:
        raise BuildError(f"recipe {recipe.name}: expected a base recipe to finish, found none")
    return recipe.base


def _layers(info: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in info.get("layers", [])]


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
