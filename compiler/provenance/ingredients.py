"""What is known of the toolchains that had a part in an artifact."""

from __future__ import annotations

from collections.abc import Mapping

from compiler.errors import CatalogError
from compiler.provenance.predicate import Tool
from compiler.toolchains import catalog, install


def known(locks: Mapping[str, str]) -> tuple[Tool, ...]:
    """Locks, drivers and package versions of toolchains.

    Args:
        locks: toolchain name to lock digest, as the compile steps note it.
    """
    return tuple(_known(name, lock) for name, lock in sorted(locks.items()))


def _known(name: str, lock_sha256: str) -> Tool:
    try:
        toolchain = catalog.get(name)
    except CatalogError:  # a plug-in's own, or another host's: the lock is all there is
        return Tool(name=name, lock_sha256=lock_sha256)
    here = toolchain.lock_sha256 == lock_sha256 and install.is_installed(toolchain)
    return Tool(
        name=name,
        lock_sha256=lock_sha256,
        driver_sha256=toolchain.driver_sha256,
        packages=install.packages(toolchain) if here else {},
    )
