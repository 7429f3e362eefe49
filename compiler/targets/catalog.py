"""Targets: hardware profiles, as data beside this file.

A target names the hardware classes that its artifacts are for, what devices of these classes run and have
room for, and the ladder of recipes, in tiers from the fastest precision down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final

from compiler import profiles
from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table
from compiler.recipes import catalog as recipes
from compiler.recipes.catalog import Recipe
from compiler.targets import operators

HERE: Final = Path(__file__).parent
NPU: Final = "npu"
_CLASS: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_CLAUSE: Final = re.compile(r"(==|!=|>=|<=|>|<|~=)\s*\d+(\.\d+)*(\.\*)?")
Tiers = tuple[tuple[Recipe, ...], ...]


@dataclass(frozen=True, kw_only=True)
class EngineProfile:
    """What a finishing toolchain is told about a target.

    Attributes:
        compute_capabilities: of NVIDIA GPUs, as TensorRT names them: SM89.
        workspace_mib: scratch memory that TensorRT may plan with.
        max_batch: of the optimization profile, for models whose batch varies.
        settings: what else the toolchain's driver takes, such as Vela's accelerator.
    """

    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int = 1024
    max_batch: int = 8
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A hardware profile.

    Attributes:
        ladder: tiers of recipes from the fastest precision down. All recipes of a tier are candidates; a
            lower tier is tried only when none of the upper ones gave an artifact.
        fallback: the same for the portable artifact beside an engine or an NPU's binary.
        runtime_versions: by runtime, the versions that devices of the classes run, as a specifier.
        memory_mib: what a model may take at run time on such a device.
        max_size_mib: largest payload that the target's devices should take.
        operators: by runtime, the operators that the target's runtime takes. A runtime without an entry
            takes whatever its own builder takes. Under `NPU`, those that the accelerator itself takes.
        machines: the machines (as `platform.machine` says) whose latency figures are the target's own;
            empty where figures measured on a host are estimates.
    """

    name: str
    title: str
    hardware_classes: tuple[str, ...]
    ladder: Tiers
    fallback: Tiers
    runtime_versions: dict[str, str]
    memory_mib: int
    max_size_mib: int
    operators: dict[str, frozenset[str]]
    machines: tuple[str, ...]
    engine: EngineProfile

    @property
    def candidates(self) -> tuple[Recipe, ...]:
        """The recipes of the ladder, from the first tier down."""
        return tuple(chain.from_iterable(self.ladder))

    def beside_npu(self, operators: Iterable[str]) -> list[str]:
        """Operators that a compiler left on the processor, each with why."""
        placed = self.operators.get(NPU, frozenset())
        return [
            f"{name} ({'its constraints are not met' if name in placed else 'the NPU has none'})"
            for name in sorted(operators)
        ]

    def figures_are_own(self, machine: str) -> bool:
        """Whether what is measured on such a machine is the target's own figure, and no estimate."""
        return machine in self.machines


def names() -> list[str]:
    """Names of all targets, the user's among them."""
    return list(profiles.named("targets", HERE))


def get(name: str) -> Target:
    """A target by name.

    Raises:
        CatalogError: there is none of that name, or a mistake in its description.
    """
    known = profiles.named("targets", HERE)
    if name not in known:
        raise CatalogError(f"expected a target of {', '.join(known)}, found {name!r}")
    return read(known[name])


def read(path: Path) -> Target:
    """A target from its file, wherever that is; its name is the file's.

    Raises:
        CatalogError: a mistake in it, with the file and the key.
    """
    table = strict.read(path, error=CatalogError)
    known = recipes.load()
    taken = table.table("operators", optional=True)
    target = Target(
        name=path.stem,
        title=table.text("title"),
        hardware_classes=_classes(table),
        ladder=_tiers(table, "ladder", known),
        fallback=_tiers(table, "fallback", known, optional=True),
        runtime_versions=_versions(table.table("runtime_versions")),
        memory_mib=table.integer("memory_mib", minimum=1),
        max_size_mib=table.integer("max_size_mib", minimum=1),
        operators={runtime: operators.union(taken, runtime) for runtime in taken.keys()},  # noqa: SIM118 - a Table
        machines=tuple(table.texts("machines", default=[])),
        engine=_engine(table.table("engine", optional=True)),
    )
    table.done()
    _complete(table, target)
    return target


def _classes(table: Table) -> tuple[str, ...]:
    found = table.texts("hardware_classes")
    if not found or len(set(found)) != len(found) or not all(map(_CLASS.fullmatch, found)):
        expected = "one or more different names of small letters, digits and '-'"
        raise table.fail("hardware_classes", expected, found)
    return tuple(found)


def _versions(table: Table) -> dict[str, str]:
    found = {}
    for runtime in table.keys():  # noqa: SIM118 - a Table
        found[runtime] = table.text(runtime)
        if not all(_CLAUSE.fullmatch(clause.strip()) for clause in found[runtime].split(",")):
            expected = "versions such as '>=10.3,<12'"
            raise table.fail(runtime, expected, found[runtime])
    return found


def _complete(table: Table, target: Target) -> None:
    """Every runtime that a recipe needs has its versions said."""
    for recipe in (*target.candidates, *chain.from_iterable(target.fallback)):
        if recipe.loader not in target.runtime_versions:
            raise table.fail(
                f"runtime_versions.{recipe.loader}",
                f"the versions of {recipe.loader}, which {recipe.name} needs",
                sorted(target.runtime_versions),
            )


def _tiers(table: Table, key: str, known: dict[str, Recipe], *, optional: bool = False) -> Tiers:
    rows = table.lists(key, optional=optional)
    found = [_tier(table, key, row, known) for row in rows]
    listed = [recipe.name for tier in found for recipe in tier]
    if (not listed and not optional) or len(set(listed)) != len(listed):
        raise table.fail(key, "one or more tiers, each recipe once", rows)
    return tuple(found)


def _tier(
    table: Table, key: str, row: Sequence[str], known: dict[str, Recipe]
) -> tuple[Recipe, ...]:
    for name in row:
        if name not in known:
            raise table.fail(key, f"recipes of {', '.join(sorted(known))}", name)
    return tuple(known[name] for name in row)


def _engine(table: Table) -> EngineProfile:
    profile = EngineProfile(
        compute_capabilities=tuple(table.texts("compute_capabilities", default=[])),
        workspace_mib=table.integer("workspace_mib", default=1024, minimum=16),
        max_batch=table.integer("max_batch", default=8, minimum=1),
        settings=dict(table.table("settings", optional=True).raw()),
    )
    table.done()
    return profile
