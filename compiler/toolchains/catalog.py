"""The toolchains that this version knows, as data beside this file, and the user's own.

A toolchain is an environment, a driver script that runs inside it, and the limits that the driver runs
under. The environment is made from lock files, or the user supplies it: an interpreter with the tool's
libraries, a program on the path, or both.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from compiler import profiles
from compiler.errors import CatalogError
from compiler.graph import strict
from compiler.graph.strict import Table
from compiler.toolchains.process import Limits

HERE: Final = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Supplied:
    """What the user brings, because it cannot be installed from an index.

    Attributes:
        pythons: interpreters, the first that there is counts: paths, or ``$VARIABLE`` that holds one. Empty
            where this interpreter will do.
        imports: top-level modules that the interpreter must have; looked for, not imported.
        program: of the tool; looked for on the path.
        hint: what has to be there, for people.
        environment: further variables for the driver.
    """

    pythons: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    program: str = ""
    hint: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def python(self) -> Path | None:
        """The interpreter, if there is one with what is imported."""
        if not self.pythons:
            return Path(sys.executable)
        for one in self.pythons:
            path = os.environ.get(one[1:], "") if one.startswith("$") else one
            found = shutil.which(Path(path).expanduser()) if path else None
            if found and self._has_imports(Path(found)):
                return Path(found)
        return None

    def _has_imports(self, python: Path) -> bool:
        places = _libraries(python)
        return all(
            any((place / name).is_dir() or (place / f"{name}.py").is_file() for place in places)
            for name in self.imports
        )

    def tool(self) -> Path | None:
        """The program, if it is on the path."""
        found = shutil.which(self.program) if self.program else None
        return Path(found).resolve() if found else None

    def is_there(self) -> bool:
        """Whether everything is."""
        return self.python() is not None and (not self.program or self.tool() is not None)

    def content(self) -> bytes:
        """What tells one supplied tool from another: its places, its packages' versions, its program."""
        python, tool = self.python(), self.tool()
        parts = [str(python), *self.environment.values()]
        if python is not None and self.pythons:
            found = [path.name for one in _libraries(python) for path in one.glob("*.dist-info")]
            parts += sorted(found)
        if tool is not None:
            parts += [str(tool), hashlib.sha256(tool.read_bytes()).hexdigest()]
        return "\n".join(parts).encode()


def _libraries(python: Path) -> list[Path]:
    """Folders that an interpreter imports from, told by its place, without starting it."""
    prefix = python.parent.parent
    patterns = ("lib*/python3*/*-packages", "local/lib/python3*/*-packages")
    return sorted({path for pattern in patterns for path in prefix.glob(pattern)})


@dataclass(frozen=True, kw_only=True)
class Toolchain:
    """One isolated environment and its driver.

    Attributes:
        modules: scripts that are laid beside the driver, which may import them.
        locks: requirement files, complete and with hashes, relative to no index.
        locks_any_python: the same for packages whose metadata refuse this Python although they work.
        supplied: what the user brings in place of locks; None where the locks make the environment.
        size_mib: roughly, on disk.
    """

    name: str
    title: str
    driver: Path
    locks: tuple[Path, ...]
    size_mib: int
    limits: Limits
    modules: tuple[Path, ...] = ()
    locks_any_python: tuple[Path, ...] = ()
    supplied: Supplied | None = None

    @property
    def lock_sha256(self) -> str:
        """Digest of the lock files, and of the interpreter and processor that they are resolved for.

        Of a supplied tool, the digest of what can be seen of it.
        """
        digest = hashlib.sha256()
        for lock in (*self.locks, *self.locks_any_python):
            digest.update(lock.read_bytes())
        if self.supplied is not None:
            digest.update(self.supplied.content())
        digest.update(f"{sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}".encode())
        return digest.hexdigest()

    @property
    def driver_sha256(self) -> str:
        """Digest of the driver and its modules."""
        digest = hashlib.sha256()
        for script in (self.driver, *self.modules):
            digest.update(script.read_bytes())
        return digest.hexdigest()


def names() -> list[str]:
    """Names of all toolchains, the user's among them."""
    return list(profiles.named("toolchains", HERE))


def get(name: str) -> Toolchain:
    """A toolchain by name.

    Raises:
        CatalogError: there is none of that name, or a mistake in its description.
    """
    known = profiles.named("toolchains", HERE)
    if name not in known:
        raise CatalogError(f"expected a toolchain of {', '.join(known)}, found {name!r}")
    return read(known[name])


def read(path: Path) -> Toolchain:
    """A toolchain from its file; its name is the file's, and what it names lies beside it.

    Raises:
        CatalogError: a mistake in it, with the file and the key.
    """
    table = strict.read(path, error=CatalogError)
    limits = table.table("limits")
    shipped = path.parent == HERE
    scripts, locks = ("drivers", "locks") if shipped else ("", "")
    supplied = _supplied(table.table("supplied", optional=True))
    toolchain = Toolchain(
        name=path.stem,
        title=table.text("title"),
        driver=_beside(table, "driver", table.text("driver"), scripts),
        modules=_all_beside(table, "modules", scripts),
        locks=_all_beside(table, "locks", locks),
        locks_any_python=_all_beside(table, "locks_any_python", locks),
        supplied=supplied,
        size_mib=table.integer("size_mib", default=0),
        limits=Limits(
            wall_s=limits.number("wall_s", minimum=1),
            cpu_s=limits.number("cpu_s", minimum=1),
            memory_mib=limits.integer("memory_mib", minimum=64),
        ),
    )
    limits.done()
    table.done()
    if supplied is not None and (toolchain.locks or toolchain.locks_any_python):
        raise table.fail("supplied", "either locks or what the user supplies", "both")
    return toolchain


def _supplied(table: Table) -> Supplied | None:
    if not table.keys():
        return None
    environment = table.table("environment", optional=True)
    found = Supplied(
        pythons=tuple(table.texts("python", default=[])),
        imports=tuple(table.texts("imports", default=[])),
        program=table.text("program", default=""),
        hint=table.text("hint"),
        environment={name: environment.text(name) for name in environment.keys()},  # noqa: SIM118 - a Table
    )
    table.done()
    return found


def _all_beside(table: Table, key: str, folder: str) -> tuple[Path, ...]:
    return tuple(_beside(table, key, one, folder) for one in table.texts(key, default=[]))


def _beside(table: Table, key: str, name: str, folder: str) -> Path:
    path = (Path(table.where).parent / folder / name).resolve()
    if not path.is_file():
        raise table.fail(key, f"a file, relative to {Path(table.where).parent / folder}", name)
    return path
