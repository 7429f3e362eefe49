"""The toolchains that this version knows, as data beside this file.

A toolchain is a set of lock files, a driver script that runs inside the environment made from them,
and the limits that the driver runs under.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.toolchains.process import Limits

HERE: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """One isolated environment and its driver.

    Attributes:
        locks: requirement files, complete and with hashes, relative to no index.
        locks_any_python: the same for packages whose metadata refuse this Python although they work.
        system_packages: whether the environment sees the system's Python packages, because what it runs is
            installed with the system; nothing locks those, so what it answers is not cached.
        size_mib: roughly, on disk.
    """

    name: str
    title: str
    driver: Path
    locks: tuple[Path, ...]
    locks_any_python: tuple[Path, ...]
    size_mib: int
    limits: Limits
    system_packages: bool = False

    @property
    def lock_sha256(self) -> str:
        """Digest of the lock files, and of the interpreter and processor that they are resolved for."""
        digest = hashlib.sha256()
        for lock in (*self.locks, *self.locks_any_python):
            digest.update(lock.read_bytes())
        digest.update(f"{sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}".encode())
        return digest.hexdigest()

    @property
    def driver_sha256(self) -> str:
        """Digest of the driver."""
        return hashlib.sha256(self.driver.read_bytes()).hexdigest()


def names() -> list[str]:
    """Names of all toolchains."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def get(name: str) -> Toolchain:
    """A toolchain by name.

    Raises:
        CatalogError: there is none of that name.
    """
    if name not in names():
        raise CatalogError(f"expected a toolchain of {', '.join(names())}, found {name!r}")
    table = strict.read(HERE / f"{name}.toml", error=CatalogError)
    limits = table.table("limits")
    toolchain = Toolchain(
        name=name,
        title=table.text("title"),
        driver=(HERE / "drivers" / table.text("driver")).resolve(),
        locks=tuple(HERE / "locks" / lock for lock in table.texts("locks")),
        locks_any_python=tuple(
            HERE / "locks" / lock for lock in table.texts("locks_any_python", default=[])
        ),
        system_packages=table.flag("system_packages", default=False),
        size_mib=table.integer("size_mib"),
        limits=Limits(
            wall_s=limits.number("wall_s", minimum=1),
            cpu_s=limits.number("cpu_s", minimum=1),
            memory_mib=limits.integer("memory_mib", minimum=64),
        ),
    )
    limits.done()
    table.done()
    return toolchain
