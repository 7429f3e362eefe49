"""Recipes: what can be tried, as data beside this file.

A recipe names its backend and the settings that its compile step hands to the toolchain. Names decode.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table

HERE: Final = Path(__file__).parent
BACKENDS: Final = ("litert", "onnx", "tensorrt-rtx")
MODES: Final = ("fp32", "fp16", "static", "dynamic", "weight_only")
CALIBRATORS: Final = ("MinMax", "Percentile", "Entropy")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make an artifact.

    Attributes:
        precision: for people: int8, fp16, ...
        settings: what the toolchain's driver is told.
        parity_cosine_min: the mean cosine per output that a candidate must reach.
        saturates: its int8 sums overflow on processors with AVX2 and without VNNI.
    """

    name: str
    title: str
    backend: str
    precision: str
    mode: str
    settings: dict[str, Any]
    parity_cosine_min: float
    saturates: bool = False

    @property
    def calibrated(self) -> bool:
        """Whether ranges come from calibration data."""
        return self.mode == "static"


def load() -> dict[str, Recipe]:
    """All recipes by name.

    Raises:
        CatalogError: a mistake in one.
    """
    found: dict[str, Recipe] = {}
    for path in sorted(HERE.glob("*.toml")):
        top = strict.read(path, error=CatalogError)
        for name in top.keys():  # noqa: SIM118 - a Table
            found[name] = _recipe(name, top.table(name))
    return found


def get(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        CatalogError: there is none of that name.
    """
    known = load()
    if name not in known:
        raise CatalogError(f"expected a recipe of {', '.join(sorted(known))}, found {name!r}")
    return known[name]


def _recipe(name: str, table: Table) -> Recipe:
    backend = table.choice("backend", BACKENDS)
    mode = table.choice("mode", MODES)
    recipe = Recipe(
        name=name,
        title=table.text("title"),
        backend=backend,
        precision=table.text("precision"),
        mode=mode,
        settings=_litert(table, mode) if backend == "litert" else _onnx(table, mode),
        parity_cosine_min=table.number("parity_cosine_min", minimum=0),
        saturates=table.flag("saturates", default=False),
    )
    table.done()
    return recipe


def _litert(table: Table, mode: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"mode": mode}
    if mode in {"static", "dynamic", "weight_only"}:
        settings["weight_bits"] = table.integer("weight_bits", default=8, minimum=2)
        settings["algorithm"] = table.text("algorithm", default="MIN_MAX_UNIFORM_QUANT")
        settings["float_operators"] = table.texts("float_operators", default=[])
    if mode == "static":
        settings["operators"] = table.texts("operators", default=[])
        settings["activation_bits"] = table.integer("activation_bits", default=8, minimum=8)
    return settings


def _onnx(table: Table, mode: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"mode": mode}
    if mode in {"static", "dynamic"}:
        settings["per_channel"] = table.flag("per_channel")
        settings["reduce_range"] = table.flag("reduce_range")
    if mode == "static":
        settings["operators"] = table.texts("operators", default=[])
        settings["activation"] = table.choice("activation", ("int8", "uint8"))
        settings["weight"] = table.choice("weight", ("int8", "uint8"))
        settings["calibrator"] = table.choice("calibrator", CALIBRATORS, default="MinMax")
    return settings
