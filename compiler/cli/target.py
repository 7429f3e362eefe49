"""``outrider target``: the hardware that can be compiled for, shipped and the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from compiler.errors import CatalogError
from compiler.recipes.catalog import Recipe
from compiler.targets import catalog
from compiler.targets.catalog import Target, Tiers
from compiler.toolchains import catalog as toolchains
from fleet.cli import output

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(short_help="Show hardware profiles, and check your own.")
def command() -> None:
    """Targets: what can be compiled for.

    Your own lie in `targets/` below the folders in OUTRIDER_PROFILES, else below ~/.config/outrider.

    \b
      outrider target list
      outrider target show jetson-orin-nano
      outrider target check my-board.toml
    """


@command.command("list")
@_JSON
def list_(*, as_json: bool) -> None:
    """List the targets, yours among them."""
    targets = [catalog.get(name) for name in catalog.names()]
    output.emit(
        [_described(target) for target in targets],
        as_json=as_json,
        human=lambda: output.table(
            "Targets",
            ["name", "what it is", "hardware classes", "runtimes"],
            [
                [
                    target.name,
                    target.title,
                    ", ".join(target.hardware_classes),
                    ", ".join(f"{name} {spec}" for name, spec in target.runtime_versions.items()),
                ]
                for target in targets
            ],
        ),
    )


@command.command()
@click.argument("name")
@_JSON
def show(name: str, *, as_json: bool) -> None:
    """Show the target NAME: what its devices run and take, and the recipes tier by tier."""
    target = catalog.get(name)
    output.emit(_described(target), as_json=as_json, human=lambda: _print(target))


@command.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE..."
)
@_JSON
def check(files: tuple[Path, ...], *, as_json: bool) -> None:
    """Check descriptions of targets: every key, recipe, operator set and toolchain that they name."""
    checked = []
    for file in files:
        target = catalog.read(file)
        for recipe in _recipes(target):
            if recipe.toolchain and recipe.toolchain not in toolchains.names():
                known = ", ".join(toolchains.names())
                raise CatalogError(
                    f"recipe {recipe.name}: toolchain: expected one of {known}, found {recipe.toolchain!r}"
                )
        checked.append(_described(target))
    output.emit(
        checked,
        as_json=as_json,
        human=lambda: output.table(
            "In order",
            ["target", "recipes", "toolchains"],
            [
                [
                    one["name"],
                    len(one["toolchains"]),
                    ", ".join(sorted(set(one["toolchains"].values()))),
                ]
                for one in checked
            ],
        ),
    )


def _recipes(target: Target) -> list[Recipe]:
    return [recipe for tier in (*target.ladder, *target.fallback) for recipe in tier]


def _described(target: Target) -> dict[str, Any]:
    engine = target.engine
    return {
        "name": target.name,
        "title": target.title,
        "hardware_classes": list(target.hardware_classes),
        "ladder": _names(target.ladder),
        "fallback": _names(target.fallback),
        "toolchains": {recipe.name: _maker(recipe) for recipe in _recipes(target)},
        "runtime_versions": target.runtime_versions,
        "memory_mib": target.memory_mib,
        "max_size_mib": target.max_size_mib,
        "operators": {runtime: sorted(names) for runtime, names in target.operators.items()},
        "machines": list(target.machines),
        "engine": {
            "compute_capabilities": list(engine.compute_capabilities),
            "workspace_mib": engine.workspace_mib,
            "max_batch": engine.max_batch,
            "settings": engine.settings,
        },
    }


def _names(tiers: Tiers) -> list[list[str]]:
    return [[recipe.name for recipe in tier] for tier in tiers]


def _maker(recipe: Recipe) -> str:
    """What makes the recipe's file: a toolchain, or the device itself."""
    if recipe.base is None:
        return recipe.backend
    return recipe.toolchain or "the device"


def _print(target: Target) -> None:
    rows: list[Sequence[object]] = [
        ["hardware classes", ", ".join(target.hardware_classes)],
        *(["runtime", f"{name} {spec}"] for name, spec in target.runtime_versions.items()),
        ["memory for a model", f"{target.memory_mib} MiB"],
        ["largest payload", f"{target.max_size_mib} MiB"],
        ["figures are its own on", ", ".join(target.machines) or "no host: they are estimates"],
        *([f"operators of {name}", len(found)] for name, found in target.operators.items()),
    ]
    output.table(f"{target.name}: {target.title}", ["", ""], rows)
    steps = [("ladder", target.ladder), ("fallback", target.fallback)]
    output.table(
        "Recipes, tier by tier",
        ["tier", "recipe", "precision", "made by", "runs in"],
        [
            [f"{what} {number}", recipe.name, recipe.precision, _maker(recipe), recipe.loader]
            for what, tiers in steps
            for number, tier in enumerate(tiers, 1)
            for recipe in tier
        ],
    )
