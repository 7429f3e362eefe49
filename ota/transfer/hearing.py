"""A device's part in a broadcast: it says that it listens, answers the cloud's marks, and leaves in time.

Rules:
- It joins when the assignment says that several devices get the blob, and says so again every `JOIN_EVERY_S`
  until it hears something; after `JOIN_WAIT_S` of nothing it pulls.
- Every mark is answered with what is still missing. So the cloud, which sends the marks, paces the answers.
- A broadcast that falls silent is left: what is missing is pulled.
"""

from __future__ import annotations

from typing import Final

JOIN_EVERY_S: Final = 3.0
JOIN_WAIT_S: Final = 12.0
SILENCE_S: Final = 4.0


class Hearing:
    """Whether a download listens to a broadcast.

    Attributes:
        on: it listens.
        mark: number of the newest mark that was heard; 0 before the first.
    """

    __slots__ = ("_due", "_heard_at", "_until", "mark", "on")

    def __init__(self) -> None:
        self.on = False
        self.mark = 0
        self._due: float | None = None
        self._heard_at: float | None = None
        self._until = 0.0

    def join(self, now: float) -> None:
        """Begin to listen."""
        self.on, self.mark = True, 0
        self._due, self._heard_at, self._until = now, None, now + JOIN_WAIT_S

    def leave(self) -> None:
        """Listen no more."""
        self.on, self._due = False, None

    def block(self, now: float) -> None:
        """A block was heard."""
        self._heard_at, self._until = now, now + SILENCE_S
        if self.mark == 0:
            self._due = None

    def marked(self, number: int, now: float) -> None:
        """A mark was heard: say what is missing."""
        self.mark = number
        self._heard_at, self._until, self._due = now, now + SILENCE_S, now

    def due(self, now: float) -> bool:
        """Whether something is to be said now; leaves when it was silent for too long."""
        if self.on and now >= self._until:
            self.leave()
        return self.on and self._due is not None and now >= self._due

    def said(self, now: float) -> None:
        """It was said."""
        self._due = now + JOIN_EVERY_S if self._heard_at is None else None

    def deadline(self) -> float | None:
        """When `due` has to be asked again."""
        if not self.on:
            return None
        return self._until if self._due is None else min(self._until, self._due)
