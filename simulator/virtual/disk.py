"""A device's disk: the agent's own store in a folder, and what a power cut does to it.

Rule: what the store has not synced when power goes away is kept, lost or torn, block by block.
"""

from __future__ import annotations

import random
from pathlib import Path

from agent.adapters.store import Kept, Store
from agent.core.commands import Stage
from fleet.artifact.manifest import Manifest


class CuttableStore(Store):
    """The agent's store, which remembers what is not durable yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._unsynced: dict[str, list[tuple[int, bytes]]] = {}

    def write_block(self, sha256: str, offset: int, data: bytes) -> None:
        """Write fetched bytes; remembers what stood there."""
        path = self._part(sha256)
        with path.open("rb") as file:
            file.seek(offset)
            before = file.read(len(data))
        super().write_block(sha256, offset, data)
        self._unsynced.setdefault(sha256, []).append((offset, before))

    def save_bitmap(self, sha256: str, kept: Kept) -> None:
        """Make the blocks durable, then say which they are."""
        super().save_bitmap(sha256, kept)
        self._unsynced.pop(sha256, None)

    def stage(self, command: Stage) -> Manifest:
        """Hash a blob, check its attestation and have it in its slot."""
        manifest = super().stage(command)
        self._unsynced.pop(command.sha256, None)
        return manifest

    def cut_power(self, rng: random.Random) -> int:
        """Power went away; returns how many blocks were lost or torn."""
        hurt = 0
        for sha256, writes in self._unsynced.items():
            path = self._part(sha256)
            if not path.exists():
                continue
            with path.open("r+b") as file:
                for offset, before in reversed(writes):
                    fate = rng.choice(("kept", "lost", "torn"))
                    if fate == "kept":
                        continue
                    hurt += 1
                    file.seek(offset)
                    file.write(before if fate == "lost" else before[: len(before) // 2])
        self._unsynced.clear()
        return hurt

    def _part(self, sha256: str) -> Path:
        return self.root / "downloads" / f"{sha256}.part"
