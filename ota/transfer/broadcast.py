"""The sending side of a broadcast: which block is next, how fast, and who is waited for. Pure.

Rules:
- It begins when nobody has joined for `GATHER_S`, at the latest `GATHER_MOST_S` after the first, if enough
  devices have joined by then.
- It goes in passes over what somebody still misses. Marks in the stream ask every listener what it misses;
  the next pass repeats what was lost. When only one device misses anything, it is left to pull.
- The window, from mark to mark, is bounded by a second of the rate at which the slowest listener answers. A
  listener that is much slower than the others is told to leave, and one that says nothing is forgotten.
"""

from __future__ import annotations

import statistics
from collections import deque
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from ota.transfer.bitmap import unpack

MIN_LISTENERS: Final = 3
GATHER_S: Final = 1.0
GATHER_MOST_S: Final = 6.0
FIRST_WINDOW: Final = 1
MAX_WINDOW_BYTES: Final = 8 << 20
IN_FLIGHT_S: Final = 1.0
MARK_AGAIN_S: Final = 1.0
SLOW_TIMES: Final = 4.0
SLOW_S: Final = 1.0
SILENT_S: Final = 5.0
MAX_PASSES: Final = 50


class Say(str, Enum):
    """What is to be sent."""

    BLOCK = "block"
    MARK = "mark"
    LEAVE = "leave"


class Step(NamedTuple):
    """One thing to send: a block's index, a mark's number, or the request of the listener that is to leave."""

    say: Say
    number: int = 0
    device: str = ""
    request: str = ""


class _Listener(msgspec.Struct):
    """Who listens.

    Attributes:
        missing: a set bit for each block that it misses, as it said last.
        upto: how many blocks had been sent before the newest mark that it answered.
        answered_s: how long it took to answer that mark.
    """

    request: str
    missing: int
    upto: int
    answered_s: float = 0.0
    told: bool = False


class _Mark(msgspec.Struct):
    number: int
    sent_n: int
    at: float


class Carousel:
    """The broadcast of one blob to one tenant's devices.

    Args:
        count: number of blocks.
        block_bytes: bytes of each but the last.
        now: monotonic time, seconds.
    """

    def __init__(self, count: int, block_bytes: int, now: float) -> None:
        self.count, self.block_bytes = count, block_bytes
        self.began = False
        self.closed = False
        self._first_at = self._joined_at = now
        self._listeners: dict[str, _Listener] = {}
        self._queue: deque[int] = deque()
        self._sent_n = 0
        self._pass = 0
        self._marks: deque[_Mark] = deque()
        self._mark_n = 0
        self._window = FIRST_WINDOW
        self._rate = 0.0
        self._confirmed = 0
        self._confirmed_at = now
        self._leaving: deque[Step] = deque()

    @property
    def listeners(self) -> list[str]:
        """Who takes part."""
        return list(self._listeners)

    def requests(self) -> dict[str, str]:
        """The newest request of each listener."""
        return {device: listener.request for device, listener in self._listeners.items()}

    def hear(
        self, device: str, request: str, *, first: int, bitmap: bytes, mark: int, now: float
    ) -> None:
        """A listener says what it misses; the first time it joins."""
        missing = 0
        if 0 <= first < self.count and len(bitmap) <= self.count // 8 + 1:
            missing = int.from_bytes(bitmap, "little") << first
            missing &= (1 << self.count) - 1
        listener = self._listeners.get(device)
        if listener is None:
            self._listeners[device] = _Listener(request, missing, self._sent_n)
            self._joined_at = now
            self._window = FIRST_WINDOW
            return
        listener.request, listener.missing = request, missing
        answered = next((each for each in self._marks if each.number == mark), None)
        if answered is not None and answered.sent_n >= listener.upto:
            listener.upto, listener.answered_s = answered.sent_n, now - answered.at
        if not missing:
            del self._listeners[device]
        self._confirm(now)

    def leave(self, device: str, now: float) -> None:
        """A device pulls, or is gone."""
        if self._listeners.pop(device, None) is not None:
            self._confirm(now)

    def step(self, now: float) -> Step | None:
        """What to send next; None: nothing now. Look at `closed` after it."""
        if self._leaving:
            return self._leaving.popleft()
        if not self.began:
            self._begin(now)
            return None
        self._watch(now)
        if self.closed or not self._listeners:
            self.closed = True
            return None
        if self._sent_n - self._slowest() < self._window:
            block = self._next_block()
            if block is not None:
                self._sent_n += 1
                return Step(Say.BLOCK, block)
        return self._mark(now)

    def _begin(self, now: float) -> None:
        late = now >= self._first_at + GATHER_MOST_S
        if now < self._joined_at + GATHER_S and not late:
            return
        if len(self._listeners) < MIN_LISTENERS:
            self.closed = True
            return
        self.began = True
        self._confirmed_at = now
        self._new_pass()

    def _next_block(self) -> int | None:
        while self._queue:
            index = self._queue.popleft()
            if any(each.missing >> index & 1 for each in self._listeners.values()):
                return index
        return None

    def _mark(self, now: float) -> Step | None:
        """A mark where one is due; at the end of a pass also the next pass."""
        marked = self._marks[-1] if self._marks else None
        unmarked = self._sent_n - (marked.sent_n if marked else 0)
        full = self._sent_n - self._slowest() >= self._window or not self._queue
        if unmarked and (full or unmarked >= max(1, self._window // 2)):
            return self._new_mark(now)
        if not self._queue and self._slowest() >= self._sent_n:
            self._end_pass(now)
            return None
        if marked is not None and full and now >= marked.at + MARK_AGAIN_S:
            return self._new_mark(now)
        return None

    def _new_mark(self, now: float) -> Step:
        self._mark_n += 1
        self._marks.append(_Mark(self._mark_n, self._sent_n, now))
        return Step(Say.MARK, self._mark_n)

    def _end_pass(self, now: float) -> None:
        union = several = 0
        for listener in self._listeners.values():
            several |= union & listener.missing
            union |= listener.missing
        if len(self._listeners) < 2 or not several or self._pass >= MAX_PASSES:
            self.closed = True
            return
        self._confirmed_at = now
        self._new_pass()

    def _new_pass(self) -> None:
        self._pass += 1
        union = 0
        for listener in self._listeners.values():
            union |= listener.missing
        self._queue.extend(unpack(0, union.to_bytes(self.count // 8 + 1, "little")))

    # --- pace -------------------------------------------------------------------------------------

    def _slowest(self) -> int:
        return min((each.upto for each in self._listeners.values()), default=self._sent_n)

    def _confirm(self, now: float) -> None:
        """The slowest may have come further: measure, and let the window follow."""
        slowest = self._slowest()
        while self._marks and self._marks[0].sent_n < slowest:
            self._marks.popleft()
        if not self.began or slowest <= self._confirmed:
            return
        rate = (slowest - self._confirmed) * self.block_bytes / max(now - self._confirmed_at, 1e-3)
        self._confirmed, self._confirmed_at = slowest, now
        self._rate = rate if not self._rate else self._rate + 0.3 * (rate - self._rate)
        fits = int(self._rate * IN_FLIGHT_S / self.block_bytes)
        most = max(1, MAX_WINDOW_BYTES // self.block_bytes)
        self._window = max(1, min(self._window * 2, fits, most))

    def _watch(self, now: float) -> None:
        """See who holds the others up: the slow are told to leave, the silent are forgotten."""
        oldest = next((mark for mark in self._marks if mark.sent_n > self._slowest()), None)
        if oldest is None:
            return
        waited_s = now - oldest.at
        if waited_s < SLOW_S:
            return
        behind = [name for name, each in self._listeners.items() if each.upto < oldest.sent_n]
        if waited_s >= SILENT_S:
            for device in behind:
                del self._listeners[device]
            self._confirm(now)
            return
        ahead = [each.answered_s for name, each in self._listeners.items() if name not in behind]
        if len(ahead) < MIN_LISTENERS or len(ahead) < len(behind):
            return
        if waited_s > SLOW_TIMES * statistics.median(ahead):
            for device in behind:
                listener = self._listeners[device]
                if not listener.told:
                    listener.told = True
                    step = Step(Say.LEAVE, device=device, request=listener.request)
                    self._leaving.append(step)
