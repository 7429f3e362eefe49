"""A device that only fetches: the agent's real link, download and store, pumped by a thread of its own.

Many of them fit into one process, which whole daemons do not.
"""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.adapters.mqtt import BROADCAST, Endpoint, Link
from agent.adapters.store import Kept, Store
from agent.core import events as ev
from fleet.errors import OutriderError
from fleet.wire import codec, envelope
from fleet.wire.messages import Block, Refusal
from ota.transfer.download import Download
from ota.verify.trust import Target


@dataclass
class WaveDevice:
    """Args as the daemon's; `start` connects, `fetch` begins, `done` tells.

    Attributes:
        by_broadcast: blocks that came by broadcast.
        ended: monotonic time at which the last block was written; 0 before.
    """

    endpoint: Endpoint
    signer: envelope.Signer
    target: Target
    folder: Path
    by_broadcast: int = 0
    ended: float = 0.0
    up: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._events: queue.SimpleQueue[ev.Event | None] = queue.SimpleQueue()
        self._store = Store(self.folder)
        self._download = Download(self.target, tag=f"{self.endpoint.device}-")
        self._link = Link(self.endpoint, self._events.put)
        self._going = False
        self._listens = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Connect."""
        self._link.start()
        self._thread.start()

    def fetch(self) -> None:
        """Begin."""
        self._going = True
        self._events.put(ev.Tick())

    def stop(self) -> None:
        """End."""
        self._events.put(None)
        self._thread.join()
        self._link.stop()

    def content(self) -> bytes:
        """What was fetched."""
        return (self.folder / "downloads" / f"{self.target.sha256}.part").read_bytes()

    def _run(self) -> None:
        self._store.prepare(self.target.sha256, self.target.length_bytes)
        while True:
            due = self._download.deadline() if self._going else None
            wait_s = max(0.0, due - time.monotonic()) if due is not None else None
            try:
                event = self._events.get(timeout=wait_s)
            except queue.Empty:
                event = ev.Tick()
            if event is None:
                return
            self._take(event)
            if self._going:
                self._pump()

    def _take(self, event: ev.Event) -> None:
        if isinstance(event, ev.Connected):
            self._download.on_reconnect()
            self.up.set()
        if not isinstance(event, ev.Received):
            return
        now = time.monotonic()
        self._link.handled(event)
        if event.kind == "res":
            try:
                refusal = codec.from_json(Refusal, envelope.from_bytes(event.payload).payload)
            except OutriderError:
                return
            self._download.on_refusal(refusal, now)
        elif event.kind in {"blob", BROADCAST}:
            block = codec.from_msgpack(Block, event.payload)
            to_all = event.kind == BROADCAST
            writes = (self._download.on_broadcast if to_all else self._download.on_block)(
                block, now
            )
            for write in writes:
                self._store.write_block(self.target.sha256, write.offset, write.data)
            self.by_broadcast += len(writes) if to_all else 0

    def _pump(self) -> None:
        while (wanted := self._download.wanted(time.monotonic())) is not None:
            self._listen()
            sealed = envelope.seal(
                "req", self.endpoint.device, codec.to_json(wanted), self.signer, counter=0
            )
            self._link.publish("req", envelope.to_bytes(sealed))
        self._listen()
        if self._download.complete and not self.ended:
            self.ended = time.monotonic()
            kept = Kept(self._download.block_list or b"", self._download.bitmap_bytes())
            self._store.save_bitmap(self.target.sha256, kept)
            self.done.set()

    def _listen(self) -> None:
        on = self._download.hearing.on
        if on is not self._listens:
            self._listens = on
            self._link.listen(self.target.sha256, on=on)
