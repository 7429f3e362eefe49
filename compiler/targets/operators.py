"""Sets of operators that a runtime takes, as data in the folder ``sets``, shared between targets."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from compiler import profiles
from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table

HERE: Final = Path(__file__).parent / "sets"


def names() -> list[str]:
    """Names of all sets, the user's among them."""
    return list(profiles.named("operators", HERE))


def get(name: str) -> frozenset[str]:
    """The operators of one set.

    Raises:
        CatalogError: there is none of that name, or a mistake in its description.
    """
    known = profiles.named("operators", HERE)
    if name not in known:
        raise CatalogError(f"expected an operator set of {', '.join(known)}, found {name!r}")
    table = strict.read(known[name], error=CatalogError)
    table.text("title")
    table.text("source")
    found = frozenset(table.texts("operators"))
    table.done()
    return found


def union(table: Table, runtime: str) -> frozenset[str]:
    """The operators of all sets that a target names for a runtime."""
    chosen, known = table.texts(runtime), names()
    for name in chosen:
        if name not in known:
            raise table.fail(runtime, f"operator sets of {', '.join(known)}", name)
    empty: frozenset[str] = frozenset()
    return empty.union(*map(get, chosen))
