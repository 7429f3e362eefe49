"""Sending what is buffered until the cloud has acknowledged it.

Rules:
- A row leaves the buffer only when an acknowledgement names it; until then it is sent again, each time
  after a longer pause.
- At most `IN_FLIGHT` rows wait for their acknowledgement at a time; a row that was not acknowledged in
  time gives its place to the next, so that one that the cloud cannot take never blocks the others.
- What lies on a medium takes no place and is not said again on the same connection; it stays in the buffer.
- A new connection starts again from the oldest row.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from agent.core.commands import Forget, LoadRows
from agent.core.context import Context
from agent.core.events import Row, RowsLoaded
from fleet.telemetry.window import Window
from fleet.wire import codec
from fleet.wire.messages import TelemetryBatch

IN_FLIGHT = 64
FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 120.0
LOAD_TIMEOUT_S = 30.0
MAX_BATCH_BYTES = 256 << 10


class _Sent(msgspec.Struct):
    position: int
    times: int
    due: float


class Uplink:
    """The sender.

    Args:
        ctx: the core's surroundings.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._carried: set[tuple[str, int]] = set()
        self._cursor = 0
        self._more = False
        self._grown = False
        self._loading_until = 0.0
        self.waiting = 0

    def connected(self) -> None:
        """Start over: nobody knows what of the last connection arrived."""
        self._sent.clear()
        self._carried.clear()
        self._cursor = 0
        self._more = True
        self._loading_until = 0.0
        self.pump()

    def appended(self, rows: int) -> None:
        """Rows were added to the buffer."""
        self.waiting += rows
        self._more = self._grown = True
        self.pump()

    def acked(self, keys: Iterable[tuple[str, int]]) -> None:
        """The cloud has committed these rows."""
        gone = list(keys)
        for key in gone:
            self._sent.pop(key, None)
            self._carried.discard(key)
        if gone:
            self.waiting = max(0, self.waiting - len(gone))
            self._ctx.do(Forget(keys=gone))
        self.pump()

    def carried(self, keys: Iterable[tuple[str, int]]) -> None:
        """These rows lie on a medium: the next ones may go."""
        for key in keys:
            self._sent.pop(key, None)
            self._carried.add(key)
        self.pump()

    def deadline(self) -> float | None:
        """When `pump` has something to do again."""
        if not self._ctx.connected:
            return None
        if self._loading_until:
            return self._loading_until
        # Without room, what is late waits for the next place to become free.
        full, now = self._room() <= 0, self._ctx.now
        dues = (sent.due for sent in self._sent.values())
        return min((due for due in dues if not full or due > now), default=None)

    def pump(self) -> None:
        """Ask for rows when some may be sent."""
        now = self._ctx.now
        if not self._ctx.connected or now < self._loading_until:
            return
        late = [sent.position for sent in self._sent.values() if sent.due <= now]
        if late:
            self._cursor = min(self._cursor, min(late) - 1)
            self._more = True
        if self._more and self._room() > 0:
            self._loading_until = now + LOAD_TIMEOUT_S
            self._grown = False
            self._ctx.do(LoadRows(after=self._cursor, limit=IN_FLIGHT))

    def loaded(self, event: RowsLoaded) -> None:
        """Send what may be sent of the rows that came."""
        if event.after != self._cursor or not self._loading_until:
            return
        self._loading_until = 0.0
        self.waiting = event.waiting
        full = len(event.rows) >= IN_FLIGHT
        self._more = full or self._grown
        self._forget_missing(event.rows, full=full)
        if not self._ctx.connected:
            return
        room = self._room()
        due: list[Row] = []
        for row in event.rows:
            if self._is_due(row):
                if len(due) == room:
                    self._more = True
                    break
                due.append(row)
            self._cursor = max(self._cursor, row.position)
        self._send(due)
        self.pump()

    def _room(self) -> int:
        now = self._ctx.now
        return IN_FLIGHT - sum(1 for sent in self._sent.values() if sent.due > now)

    def _forget_missing(self, rows: list[Row], *, full: bool) -> None:
        """Rows in the stretch that was read which the buffer has no more are not waited for."""
        last = rows[-1].position if full else None
        there = {(row.boot_epoch, row.seq) for row in rows}
        self._sent = {
            key: sent
            for key, sent in self._sent.items()
            if key in there
            or sent.position <= self._cursor
            or (last is not None and sent.position > last)
        }

    def _is_due(self, row: Row) -> bool:
        key = (row.boot_epoch, row.seq)
        sent = self._sent.get(key)
        return key not in self._carried if sent is None else sent.due <= self._ctx.now

    def _send(self, rows: list[Row]) -> None:
        batch: list[Row] = []
        size = 0
        for row in rows:
            self._mark(row)
            if row.kind != "telemetry":
                self._ctx.publish(row.kind, row.payload, counter=row.seq)
                continue
            if batch and size + len(row.payload) > MAX_BATCH_BYTES:
                self._publish_windows(batch)
                batch, size = [], 0
            batch.append(row)
            size += len(row.payload)
        if batch:
            self._publish_windows(batch)

    def _mark(self, row: Row) -> None:
        key = (row.boot_epoch, row.seq)
        sent = self._sent.get(key)
        times = sent.times + 1 if sent else 1
        pause = min(FIRST_RETRY_S * 2.0 ** min(times - 1, 10), LONGEST_RETRY_S)
        self._sent[key] = _Sent(row.position, times, self._ctx.now + pause)

    def _publish_windows(self, rows: list[Row]) -> None:
        windows = [codec.from_msgpack(Window, row.payload) for row in rows]
        batch = TelemetryBatch(device=self._ctx.settings.device, windows=windows)
        self._ctx.publish("telemetry", codec.to_msgpack(batch), counter=rows[-1].seq)
