"""Which toolchain a target's work needs, and so which workers may take it.

A target is led by the toolchain of the first recipe on its ladder, the fastest one, which is what the target
is for: a worker without it would only ever fall back. What later recipes need beside it is asked of workers
at their start, and costs only those recipes where it is missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloud.errors import InputError
from compiler.errors import CatalogError
from compiler.recipes.catalog import Recipe
from compiler.targets import catalog


def leading(target: str) -> str:
    """The toolchain that leads a target's ladder.

    Raises:
        InputError: there is no such target.
    """
    try:
        return _made_by(catalog.get(target).candidates[0])[-1]
    except CatalogError as error:
        raise InputError(f"targets: {error}") from None


def companions(toolchains: Iterable[str]) -> set[str]:
    """The other toolchains that recipes of the targets use which one of `toolchains` leads."""
    led = set(toolchains)
    found: set[str] = set()
    for name in catalog.names():
        if leading(name) in led:
            for recipe in catalog.get(name).candidates:
                found.update(_made_by(recipe))
    return found - led


def cut(targets: Iterable[str]) -> dict[str, list[str]]:
    """Targets grouped by the toolchain that leads them, in the order of their first mention.

    Raises:
        InputError: one of them does not exist.
    """
    groups: dict[str, list[str]] = {}
    for target in targets:
        groups.setdefault(leading(target), []).append(target)
    return groups


def _made_by(recipe: Recipe) -> list[str]:
    """The toolchains that make a recipe's file, the last step's last."""
    if recipe.base is None:
        return [recipe.backend]
    return [*_made_by(recipe.base), *([recipe.toolchain] if recipe.toolchain else [])]
