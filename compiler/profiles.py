"""Where the descriptions of targets, recipes and toolchains are found: shipped ones, and the user's own.

Rules:
- A user's folders are the paths in ``OUTRIDER_PROFILES``, else ``outrider`` below the user's configuration
  folder; each may hold ``targets``, ``recipes``, ``operators`` and ``toolchains``, in the shipped ones' format.
- Nothing of the user's replaces what is shipped, and no two folders describe one name: that is an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from compiler.errors import CatalogError

VARIABLE: Final = "OUTRIDER_PROFILES"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def folders() -> list[Path]:
    """The user's folders, existing or not, in their order."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return [Path(part).expanduser() for part in chosen.split(os.pathsep) if part]
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return [Path(config).expanduser() / "outrider"]


def files(kind: str) -> list[Path]:
    """The user's TOML files of one kind.

    Raises:
        CatalogError: a folder that ``OUTRIDER_PROFILES`` names is none.
    """
    if os.environ.get(VARIABLE) is not None:
        for folder in folders():
            if not folder.is_dir():
                raise CatalogError(
                    f"{VARIABLE}: expected folders, found {str(folder)!r}, which is none; correct the path"
                )
    return [path for folder in folders() for path in sorted((folder / kind).glob("*.toml"))]


def named(kind: str, shipped: Path) -> dict[str, Path]:
    """Files by the name that each describes: its own, without ``.toml``.

    Args:
        kind: folder below a user's folder, such as ``targets``.
        shipped: folder of those that ship with this version.

    Raises:
        CatalogError: a user's file is named as a shipped one or as another, or is named oddly.
    """
    found = {path.stem: path for path in sorted(shipped.glob("*.toml"))}
    for path in files(kind):
        if not _NAME.fullmatch(path.stem):
            raise CatalogError(
                f"{path}: expected a file name of small letters, digits, '-', '_' and '.', found {path.stem!r}"
            )
        if path.stem in found:
            other = found[path.stem]
            whose = "ships with this version" if other.parent == shipped else f"is in {other}"
            raise CatalogError(
                f"{path}: expected a name of its own, found {path.stem!r}, which {whose}; rename the file"
            )
        found[path.stem] = path
    return dict(sorted(found.items()))
