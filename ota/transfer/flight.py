"""What was asked for and has not come yet: measures the link by it, and tells what is lost.

Rules:
- Answers come in the order of the requests: what an answer two requests later has overtaken is lost.
- A rate is measured while an answer has the link for itself.
"""

from __future__ import annotations

import msgspec

from ota.transfer.pace import Pace


class _Asked(msgspec.Struct):
    """A request that is not answered in full yet.

    Attributes:
        unit: bytes by which its offsets count.
        offsets: where in the blob the units begin that are still to come.
        began_at: when its answer had the link for itself.
        first_s: from the request to its first unit.
    """

    id: str
    at: float
    unit: int
    offsets: set[int]
    began_at: float = 0.0
    first_s: float = 0.0
    size_bytes: int = 0


class Flight:
    """Args: pace: is told what was measured."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._asked: list[_Asked] = []
        self._heard_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._asked)

    @property
    def size_bytes(self) -> int:
        """What is in flight; a last unit that is shorter counts in full."""
        return sum(len(asked.offsets) * asked.unit for asked in self._asked)

    def ask(self, request: str, *, unit: int, offsets: set[int], now: float) -> None:
        """A request goes out."""
        self._asked.append(_Asked(id=request, at=now, unit=unit, offsets=offsets))

    def touches(self, offset: int, length: int) -> bool:
        """Whether any of these bytes is in flight."""
        for asked in self._asked:
            first = offset - offset % asked.unit
            if any(at in asked.offsets for at in range(first, offset + length, asked.unit)):
                return True
        return False

    def expects(self, offset: int, unit: int) -> bool:
        """Whether this very unit was asked for."""
        return any(asked.unit == unit and offset in asked.offsets for asked in self._asked)

    def arrived(self, offset: int, length: int, now: float) -> None:
        """A unit came."""
        before, self._heard_at = self._heard_at, now
        for at, asked in enumerate(self._asked):
            if offset not in asked.offsets:
                continue
            if not asked.size_bytes:
                asked.began_at = max(asked.at, before)
                asked.first_s = now - asked.at
            asked.offsets.discard(offset)
            asked.size_bytes += length
            if not asked.offsets:
                self._pace.measured(
                    size_bytes=asked.size_bytes,
                    elapsed_s=now - asked.began_at,
                    first_s=asked.first_s,
                )
            overtaken = max(0, at - 1)
            self._asked = [a for a in self._asked[overtaken:] if a.offsets]
            return

    def forget(self, request: str) -> bool:
        """A request was refused; whether it was one of these."""
        known = any(asked.id == request for asked in self._asked)
        self._asked = [asked for asked in self._asked if asked.id != request]
        return known

    def clear(self) -> None:
        """Nothing that was asked for will come any more."""
        self._asked.clear()

    def deadline(self) -> float | None:
        """When it is given up if nothing arrives before; None while nothing is in flight."""
        if not self._asked:
            return None
        return max(self._heard_at, min(asked.at for asked in self._asked)) + self._pace.wait_s

    def give_up(self, now: float) -> None:
        """Ask anew for what did not come in time."""
        deadline = self.deadline()
        if deadline is not None and now >= deadline:
            self._asked.clear()
            self._pace.in_vain()
