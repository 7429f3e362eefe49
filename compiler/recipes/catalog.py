"""Recipes: what can be tried, as data beside this file.

A recipe names its backend and the settings that its compile step hands to the toolchain. Names decode.
A recipe of the backend ``finish`` is made from the file of another recipe, its `base`: by a toolchain here
(an engine, an NPU's binary), or, where it names none, by the device itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from compiler import profiles
from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table

HERE: Final = Path(__file__).parent
BACKENDS: Final = ("litert", "onnx", "finish")
MODES: Final = ("fp32", "fp16", "static", "dynamic", "weight_only")
CALIBRATORS: Final = ("minmax", "mse", "percentile", "entropy")
REFUGES: Final = ("float", "int16", "")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to make an artifact.

    Attributes:
        precision: for people: int8, fp16, ...
        settings: what the toolchain's driver is told.
        parity_cosine_min: the mean cosine per output that a candidate must reach.
        calibrators: how ranges of activations may be found; the search takes the best. Static recipes only.
        refuge: precision of the layers that mixed precision takes out: float, int16, or none.
        saturates: its int8 sums overflow on processors with AVX2 and without VNNI.
        base: of a finishing recipe, the one that makes the file which it starts from.
        toolchain: of a finishing recipe, what makes its file; empty when the device does.
        runtime, member: of a finishing recipe, what loads its file, and the file's name in the package.
    """

    name: str
    title: str
    backend: str
    precision: str
    mode: str
    settings: dict[str, Any]
    parity_cosine_min: float
    calibrators: tuple[str, ...] = ()
    refuge: str = ""
    saturates: bool = False
    base: Recipe | None = None
    toolchain: str = ""
    runtime: str = ""
    member: str = ""

    @property
    def calibrated(self) -> bool:
        """Whether ranges come from calibration data."""
        return self.mode == "static"

    @property
    def loader(self) -> str:
        """The runtime that loads its file."""
        return self.runtime or {"litert": "litert", "onnx": "onnxruntime"}[self.backend]

    @property
    def computes_in_integers(self) -> bool:
        """Whether it is meant to be faster than the float model, and not only smaller."""
        return self.mode in {"static", "dynamic"}


def load() -> dict[str, Recipe]:
    """All recipes by name.

    Raises:
        CatalogError: a mistake in one.
    """
    tables: dict[str, Table] = {}
    for path in (*sorted(HERE.glob("*.toml")), *profiles.files("recipes")):
        top = strict.read(path, error=CatalogError)
        for name in top.keys():  # noqa: SIM118 - a Table
            if name in tables:
                taken = f"a name of its own (it is taken by {tables[name].where})"
                raise top.fail(name, taken, name)
            if not _NAME.fullmatch(name):
                raise top.fail(name, "a name of small letters, digits and '_'", name)
            tables[name] = top.table(name)
    finishing = [n for n, t in tables.items() if t.choice("backend", BACKENDS) == "finish"]
    found = {name: _recipe(name, tables[name]) for name in tables if name not in finishing}
    return found | {name: _finishing(name, tables[name], found) for name in finishing}


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
    static = mode == "static"
    calibrators = table.texts("calibrators", default=list(CALIBRATORS)) if static else []
    if static and (not calibrators or not set(calibrators) <= set(CALIBRATORS)):
        raise table.fail("calibrators", f"some of {', '.join(CALIBRATORS)}", calibrators)
    recipe = Recipe(
        name=name,
        title=table.text("title"),
        backend=backend,
        precision=table.text("precision"),
        mode=mode,
        settings=_litert(table, mode) if backend == "litert" else _onnx(table, mode),
        parity_cosine_min=table.number("parity_cosine_min", minimum=0),
        calibrators=tuple(calibrators),
        refuge=table.choice("refuge", REFUGES, default="float") if static else "",
        saturates=table.flag("saturates", default=False),
    )
    table.done()
    return recipe


def _finishing(name: str, table: Table, known: dict[str, Recipe]) -> Recipe:
    base = known[table.choice("base", sorted(known))]
    recipe = Recipe(
        name=name,
        title=table.text("title"),
        backend="finish",
        precision=base.precision,
        mode=base.mode,
        settings=dict(table.table("settings", optional=True).raw()),
        parity_cosine_min=base.parity_cosine_min,
        calibrators=base.calibrators,
        refuge=base.refuge,
        base=base,
        toolchain=table.text("toolchain", default=""),
        runtime=table.text("runtime"),
        member=table.text("member"),
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
        settings["tensorrt"] = table.flag("tensorrt", default=False)
    return settings
