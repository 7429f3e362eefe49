"""Targets: hardware profiles, as data beside this file.

A target names the hardware classes that its artifacts are for, and the ladder of recipes, from the
fastest down, that is tried until one passes all gates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table
from compiler.recipes import catalog as recipes
from compiler.recipes.catalog import Recipe

HERE: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class EngineProfile:
    """How TensorRT engines are built for a target.

    Attributes:
        max_batch: of the optimization profile, for models whose batch varies.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int = 1024
    max_batch: int = 8


@dataclass(frozen=True, kw_only=True)
class Target:
    """A hardware profile.

    Attributes:
        ladder: recipes in the order in which they are tried.
        max_size_mib: largest payload that the target's devices should take.
    """

    name: str
    title: str
    hardware_classes: tuple[str, ...]
    ladder: tuple[Recipe, ...]
    max_size_mib: int
    engine: EngineProfile = field(default_factory=EngineProfile)


def names() -> list[str]:
    """Names of all targets."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def get(name: str) -> Target:
    """A target by name.

    Raises:
        CatalogError: there is none of that name, or a mistake in its description.
    """
    if name not in names():
        raise CatalogError(f"expected a target of {', '.join(names())}, found {name!r}")
    table = strict.read(HERE / f"{name}.toml", error=CatalogError)
    target = Target(
        name=name,
        title=table.text("title"),
        hardware_classes=tuple(table.texts("hardware_classes")),
        ladder=tuple(recipes.get(recipe) for recipe in table.texts("recipes")),
        max_size_mib=table.integer("max_size_mib", minimum=1),
        engine=_engine(table.table("engine", optional=True)),
    )
    table.done()
    return target


def _engine(table: Table) -> EngineProfile:
    profile = EngineProfile(
        compute_capabilities=tuple(table.texts("compute_capabilities", default=[])),
        workspace_mib=table.integer("workspace_mib", default=1024, minimum=16),
        max_batch=table.integer("max_batch", default=8, minimum=1),
    )
    table.done()
    return profile
