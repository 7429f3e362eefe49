"""Sets of operators that a runtime takes, as data in the folder ``sets``, shared between targets."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table

HERE: Final = Path(__file__).parent / "sets"


def names() -> list[str]:
    """Names of all sets."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def get(name: str) -> frozenset[str]:
    """The operators of one set.

    Raises:
        CatalogError: there is none of that name, or a mistake in its description.
    """
    if name not in names():
        raise CatalogError(f"expected an operator set of {', '.join(names())}, found {name!r}")
    table = strict.read(HERE / f"{name}.toml", error=CatalogError)
    table.text("title")
    table.text("source")
    found = frozenset(table.texts("operators"))
    table.done()
    return found


def union(table: Table, runtime: str) -> frozenset[str]:
    """The operators of all sets that a target names for a runtime."""
    chosen = table.texts(runtime)
    for name in chosen:
        if name not in names():
            raise table.fail(runtime, f"operator sets of {', '.join(names())}", name)
    empty: frozenset[str] = frozenset()
    return empty.union(*map(get, chosen))
