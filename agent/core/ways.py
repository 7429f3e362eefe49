"""Which way of sending less is taken for an assignment, what it brought, and why one was left.

Rules:
- The director names ways, best first; one that this device cannot go, or that failed, is passed over, and the full
  artifact is what remains. No way can fail an update.
- A way that is longer than what it leads to is none.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agent.core.commands import Rebuild
from agent.core.context import Context
from fleet.wire.messages import EventLevel
from ota.metadata.release import Way
from ota.verify.trust import Target


class Ways:
    """The ways of one assignment's target.

    Args:
        ctx: the core's surroundings.
        model: whose target it is.

    Attributes:
        current: the way that is gone; None: the artifact itself is fetched.
    """

    def __init__(self, ctx: Context, model: str) -> None:
        self._ctx, self._model = ctx, model
        self._tried: set[str] = set()
        self._fetched_bytes = self._filled_bytes = 0
        self.current: Way | None = None

    def begin(self) -> None:
        """A new assignment."""
        self._tried.clear()
        self._fetched_bytes = self._filled_bytes = 0
        self.current = None

    def choose(self, target: Target, slots: Mapping[str, str]) -> Way | None:
        """Go the best way that is left; `slots` says what this device holds of the model."""
        held = set(slots.values())

        def passable(way: Way) -> bool:
            here = way.base in held or not way.base if way.kind == "delta" else bool(held)
            return here and way.sha256 not in self._tried and way.length < target.length_bytes

        self.current = next((way for way in target.ways if passable(way)), None)
        return self.current

    def rebuild(self, target: Target, slots: Mapping[str, str]) -> Rebuild | None:
        """What to do once the current way's blob is there."""
        if self.current is None:
            return None
        return Rebuild(
            model=self._model,
            sha256=target.sha256,
            length_bytes=target.length_bytes,
            block_size_bytes=target.block_size_bytes,
            way=self.current,
            slots=dict(slots),
        )

    def arrived(self, filled_bytes: int) -> None:
        """The current way was of use."""
        if self.current is not None:
            self._tried.add(self.current.sha256)
            self._fetched_bytes += self.current.length
            self._filled_bytes = filled_bytes
            self.current = None

    def failed(self, code: str, detail: str, *, release: str) -> None:
        """The current way does not lead there: say why, and go no further on it."""
        if self.current is None:
            return
        self._tried.add(self.current.sha256)
        self._ctx.event(
            code,
            f"{self.current.kind} {self.current.sha256[:12]} was of no use: {detail}; fetched in another way",
            level=EventLevel.WARNING,
            model=self._model,
            release=release,
        )
        self.current = None

    def figures(self, target: Target) -> dict[str, float]:
        """For the report: what was sent, and how much less that is than the artifact."""
        if not self._filled_bytes:
            return {}
        sent = self._fetched_bytes + target.length_bytes - self._filled_bytes
        return {"bytes_sent": float(sent), "bytes_spared": float(target.length_bytes - sent)}


def blob(target: Target, way: Way) -> Target:
    """A way's blob as something to fetch."""
    return msgspec.structs.replace(
        target,
        path=f"{target.path}.{way.kind}",
        sha256=way.sha256,
        length_bytes=way.length,
        blocks_sha256=way.blocks.sha256,
        blocks_length_bytes=way.blocks.length,
        block_size_bytes=way.blocks.block_size,
        ways=[],
    )
