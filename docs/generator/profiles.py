"""Targets, recipes, operator sets and toolchains, out of the files that describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markdown import table

if TYPE_CHECKING:
    from compiler.targets.catalog import Target, Tiers


def targets() -> str:
    """The targets that models are compiled for."""
    rows = [
        [
            f"`{one.name}`",
            one.title,
            ", ".join(f"`{name}`" for name in one.hardware_classes),
            ", ".join(f"{name} `{spec}`" for name, spec in one.runtime_versions.items()),
            f"{one.memory_mib} MiB",
            ", ".join(one.machines) or "none",
        ]
        for one in _targets()
    ]
    columns = ["target", "what it is", "hardware classes", "runtimes", "memory", "measured on"]
    return table(columns, rows)


def ladders() -> str:
    """The tiers of each target."""
    rows = [[f"`{one.name}`", _tiers(one.ladder), _tiers(one.fallback)] for one in _targets()]
    return table(["target", "ladder, tier by tier", "fallback"], rows)


def operator_sets() -> str:
    """The operator sets, with where each is from."""
    from compiler.errors import CatalogError
    from compiler.graph import strict
    from compiler.targets import operators

    rows = []
    for name in operators.names():
        found = strict.read(operators.HERE / f"{name}.toml", error=CatalogError)
        source = " ".join(found.text("source").split())
        rows.append([f"`{name}`", found.text("title"), str(len(operators.get(name))), source])
    return table(["set", "what it lists", "operators", "from"], rows)


def recipes() -> str:
    """The recipes that can be tried."""
    from compiler.recipes import catalog

    rows = []
    for one in catalog.load().values():
        made_by = one.toolchain or ("the device" if one.base else one.backend)
        rows.append([f"`{one.name}`", made_by, one.loader, one.precision, one.title])
    return table(["recipe", "made by", "runs in", "precision", "what it does"], rows)


def toolchains() -> str:
    """The toolchains."""
    from compiler.toolchains import catalog

    rows = []
    for one in map(catalog.get, catalog.names()):
        needs = one.supplied.hint if one.supplied else "nothing: it is installed from its locks"
        limits = f"{one.limits.wall_s:g} s, {one.limits.memory_mib} MiB"
        rows.append([f"`{one.name}`", one.title, needs, limits])
    return table(["toolchain", "what it does", "what you supply", "limits"], rows)


def _targets() -> list[Target]:
    from compiler.targets import catalog

    return [catalog.get(name) for name in catalog.names()]


def _tiers(tiers: Tiers) -> str:
    said = [", ".join(f"`{recipe.name}`" for recipe in tier) for tier in tiers]
    return "; then ".join(said)
