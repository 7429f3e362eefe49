"""One model's intermediate files, each made once: the prepared ONNX file, the float LiteRT file, ranges.

A quantizing backend is a pair of a toolchain and a float file; what its driver offers (`ranges`,
`sensitivity`, `inspect`) is asked here, for either backend in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import msgspec

from compiler.errors import BuildError, ToolchainMissingError
from compiler.graph import control_flow
from compiler.recipes.catalog import CALIBRATORS, Recipe
from compiler.recipes.variant import Variant
from compiler.toolchains import cache, catalog, source
from compiler.toolchains.catalog import Toolchain
from compiler.toolchains.driver import Answer, OnProgress, unheard
from compiler.toolchains.source import Source

_FILES: Final = {"litert": "model.tflite", "onnx": "model.onnx"}


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that may be quantized, by the name that the backend's driver gives it."""

    name: str
    op: str


class LayerCost(msgspec.Struct, frozen=True, kw_only=True):
    """What quantizing one layer alone does to the model's answers.

    Attributes:
        snr_db: of the answers, in decibel.
        noise: energy of their error, relative to that of the answers.
    """

    name: str
    op: str
    snr_db: float
    noise: float


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """How far a layer's answers lie off when all layers run quantized together."""

    name: str
    op: str
    snr_db: float
    cosine: float
    max_abs: float


class Bars(msgspec.Struct, frozen=True, kw_only=True):
    """A histogram over equally wide bins from `lo` to `hi`."""

    lo: float
    hi: float
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class Float:
    """A backend's float file.

    Attributes:
        info: what the driver said of it: layers, operators, and for LiteRT the bindings.
        seconds: what making it took.
    """

    toolchain: Toolchain
    payload: bytes
    info: dict[str, Any]
    seconds: float

    @property
    def layers(self) -> list[Layer]:
        """Layers that may be quantized."""
        return msgspec.convert(self.info.get("layers", []), list[Layer])


class Workshop:
    """Makes files for one model, and remembers them."""

    def __init__(self, source_: Source, calibrators: Sequence[str] = CALIBRATORS) -> None:
        """For one model, and the calibrators that may be asked for."""
        self.source = source_
        self._calibrators = tuple(calibrators)
        self._floats: dict[str, Float | BuildError] = {}
        self._ranges: dict[tuple[str, int, bool], Answer] = {}

    @cached_property
    def calibration(self) -> bytes:
        """Calibration samples as drivers take them."""
        return source.sample_file(self.source.calibration, source.CALIBRATION_SAMPLES)

    @property
    def onnx(self) -> Float:
        """The model with folded constants, inferred shapes and unique names."""
        return self._once("onnx", self._prepared)

    @property
    def litert(self) -> Float:
        """The model as a LiteRT file."""
        return self._once("litert", self._converted)

    def ahead(self, backends: Iterable[str]) -> None:
        """Make float files before they are asked for; what fails then fails again when it is."""
        for name in backends:
            with contextlib.suppress(BuildError, ToolchainMissingError):
                _ = self.litert if name == "litert" else self.onnx

    def _once(self, name: str, make: Callable[[], Float]) -> Float:
        """A float file is made once, and fails once."""
        if name not in self._floats:
            try:
                self._floats[name] = make()
            except BuildError as error:
                self._floats[name] = error
        found = self._floats[name]
        if isinstance(found, BuildError):
            raise BuildError(str(found))
        return found

    def _prepared(self) -> Float:
        toolchain = catalog.get("onnx")
        files = {"model.onnx": self.source.model.upgraded}
        answer = cache.call(toolchain, "prepare", files=files, options={})
        return _float(toolchain, answer)

    def _converted(self) -> Float:
        toolchain = catalog.get("litert")
        problem = control_flow.obstacle(self.source.model.operators, toolchain.name)
        if problem:
            raise BuildError(problem)
        samples = source.sample_file(self.source.calibration, source.CONVERSION_SAMPLES)
        answer = cache.call(
            toolchain,
            "convert",
            files={"model.onnx": self.source.model.upgraded, "samples.npz": samples},
            options={"shapes": source.fixed_shapes(self.source.inputs, self.source.calibration)},
        )
        return _float(toolchain, answer)

    def float_of(self, recipe: Recipe) -> Float:
        """The float file that a recipe starts from."""
        return self.litert if backend(recipe) == "litert" else self.onnx

    def ranges(self, recipe: Recipe) -> Answer:
        """Ranges of activations by every calibrator, and their histograms: one pass over the samples."""
        recipe = recipe.base or recipe
        levels = 1 << int(recipe.settings.get("activation_bits", 8))
        symmetric = bool(recipe.settings.get("tensorrt")) or levels > 256
        key = (recipe.backend, levels, symmetric)
        if key not in self._ranges:
            start = self.float_of(recipe)
            self._ranges[key] = cache.call(
                start.toolchain,
                "ranges",
                files={_FILES[recipe.backend]: start.payload, "samples.npz": self.calibration},
                options={
                    "calibrators": list(self._calibrators),
                    "levels": levels,
                    "symmetric": symmetric,
                    **_bindings(start),
                },
            )
        return self._ranges[key]

    def quantize(self, variant: Variant) -> Answer:
        """A quantized file by the backend's driver."""
        recipe = variant.recipe.base or variant.recipe
        start = self.float_of(recipe)
        files = {_FILES[recipe.backend]: start.payload}
        if recipe.calibrated:
            files["ranges.json"] = self.ranges(recipe).files["ranges"]
        options = {**variant.options, **_bindings(start)}
        return cache.call(start.toolchain, _operation(recipe), files=files, options=options)

    def sensitivity(
        self, variant: Variant, layers: Sequence[str], on_progress: OnProgress = unheard
    ) -> list[LayerCost]:
        """What quantizing each of `layers` alone costs."""
        recipe = variant.recipe.base or variant.recipe
        start = self.float_of(recipe)
        samples = source.sample_file(self.source.calibration, source.SENSITIVITY_SAMPLES)
        answer = cache.call(
            start.toolchain,
            "sensitivity",
            files={
                _FILES[recipe.backend]: start.payload,
                "ranges.json": self.ranges(recipe).files["ranges"],
                "samples.npz": samples,
            },
            options={**variant.options, "layers": sorted(layers), **_bindings(start)},
            on_progress=on_progress,
        )
        costs: list[LayerCost] = _said(answer, "layers", list[LayerCost])
        return costs

    def inspect(
        self, variant: Variant, quantized: bytes
    ) -> tuple[list[LayerError], dict[str, Bars], dict[str, Bars]]:
        """Error per layer, histograms of weights, and (where calibrated) histograms of activations."""
        recipe = variant.recipe.base or variant.recipe
        start = self.float_of(recipe)
        name = _FILES[recipe.backend]
        samples = source.sample_file(self.source.calibration, source.INSPECTION_SAMPLES)
        answer = cache.call(
            start.toolchain,
            "inspect",
            files={
                name: start.payload,
                name.replace("model", "quantized"): quantized,
                "samples.npz": samples,
            },
            options=_bindings(start),
        )
        activations: dict[str, Bars] = {}
        if recipe.calibrated:
            found = msgspec.json.decode(self.ranges(recipe).files["ranges"])
            activations = msgspec.convert(found.get("histograms", {}), dict[str, Bars])
        layers = _said(answer, "layers", list[LayerError])
        return layers, _said(answer, "weights", dict[str, Bars]), activations


def backend(recipe: Recipe) -> str:
    """The backend that quantizes: a finishing recipe's is its base's."""
    return (recipe.base or recipe).backend


def _operation(recipe: Recipe) -> str:
    return "quantize" if recipe.backend == "litert" else recipe.mode


def _bindings(start: Float) -> dict[str, Any]:
    """For LiteRT: which tensor of the file stands for which of the model."""
    return {"inputs": start.info["inputs"]} if "inputs" in start.info else {}


def _float(toolchain: Toolchain, answer: Answer) -> Float:
    return Float(
        toolchain=toolchain,
        payload=answer.files["model"],
        info=answer.info,
        seconds=answer.wall_s,
    )


def _said(answer: Answer, key: str, kind: Any) -> Any:
    """A part of a driver's answer in its type."""
    found: Mapping[str, Any] = answer.info
    try:
        return msgspec.convert(found.get(key, []), kind)
    except msgspec.ValidationError as error:
        raise BuildError(f"expected {key} in the driver's answer, found: {error}") from None
