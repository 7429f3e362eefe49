"""A medium in the link's place: the same messages, carried by a person.

Rules:
- The core knows no difference: what comes from the medium is a `Received` like any other, and is proved like it.
- What the device publishes lies on the medium as it was signed; it stays in the buffer until an acknowledgement, which
  the next journey may bring.
- Each round trip to the medium runs on a thread of its own, so that a slow stick holds up no answer to an application.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from agent.adapters import clock
from agent.core.events import Carried, Event, Received
from fleet.errors import OutriderError
from fleet.wire import codec, envelope
from fleet.wire.messages import BlocksWanted, Request, TelemetryBatch
from ota.bundle import medium as bundle
from ota.bundle.medium import Medium
from ota.transfer import serve

MAX_MESSAGE_BYTES: Final = 16 << 20
_MAX_ACKS: Final = 10_000
_SINGLE: Final = frozenset({"reported", "event"})
_KEPT: Final = frozenset({"reported", "event", "telemetry"})


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """How an exchange with a medium goes.

    Attributes:
        running: whether it still goes on.
        desired: whether the medium holds something for this device.
        collected: messages that were written to it.
        missing: digests of blobs that were asked for and are not on it.
        error: why it ended early; empty where it did not.
    """

    running: bool = False
    desired: bool = False
    collected: int = 0
    missing: list[str] = []
    error: str = ""


class _Row(msgspec.Struct):
    boot_epoch: str
    seq: int


class MediumLink:
    """The link to a medium.

    Args:
        medium: the folder.
        device: this device's id.
        post: takes events; called from the link's thread.

    Attributes:
        rows: what of the buffer lies on the medium, as far as it was said in this exchange.
        moved_at: when something new was last fetched or written, monotonic seconds; windows do not count.
        error: why nothing more is written; empty while all is well.
    """

    def __init__(self, medium: Medium, device: str, post: Callable[[Event], None]) -> None:
        self._medium, self._device, self._post = medium, device, post
        self._work: queue.Queue[tuple[str, bytes] | None] = queue.Queue()
        self._collected = 0
        self._missing: set[str] = set()
        self._given: set[tuple[str, int]] = set()
        self._desired = self._born = False
        self._next = len(medium.names(bundle.reports(device))) + 1
        self._seen = {name.rpartition("-")[2] for name in medium.names(bundle.reports(device))}
        self.rows: set[tuple[str, int]] = set()
        self.error = ""
        self.moved_at = clock.monotonic()
        self._thread = threading.Thread(target=self._run, name="medium", daemon=True)
        self._thread.start()

    @property
    def exchanged(self) -> Exchanged:
        """How it goes."""
        return Exchanged(
            running=True,
            desired=self._desired,
            collected=self._collected,
            missing=sorted(self._missing),
            error=self.error,
        )

    def publish(self, kind: str, payload: bytes) -> None:
        """Take what the device says."""
        self._work.put((kind, payload))

    def stop(self) -> None:
        """Answer no more."""
        self._work.put(None)
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            try:
                self._take(*item)
            except OutriderError as error:
                self.error = f"{error.code}: {error}"

    def _take(self, kind: str, payload: bytes) -> None:
        if kind == "birth":
            # It comes again and again: no answer on a medium carries its nonce.
            if not self._born:
                self._born = True
                self._keep(kind, payload)
                self._deliver()
        elif kind in _KEPT:
            self._keep(kind, payload)
        elif kind == "req":
            sealed = envelope.from_bytes(payload)
            request: Request = codec.from_json(Request, sealed.payload)  # type: ignore[arg-type]  # a union is a type to msgspec
            if isinstance(request, BlocksWanted):
                self._blocks(request)

    def _keep(self, kind: str, payload: bytes) -> None:
        name = hashlib.sha256(payload).hexdigest()[:32]
        if name not in self._seen:
            self._write(kind, name, payload)
        rows = _rows(kind, envelope.from_bytes(payload).payload)
        self.rows |= rows
        if rows:
            self._post(Carried(keys=sorted(rows)))

    def _write(self, kind: str, name: str, payload: bytes) -> None:
        where = (*bundle.reports(self._device), f"{self._next:08d}-{kind}-{name}")
        self._next += 1
        self._collected += self._medium.write(where, payload)
        self._seen.add(name)
        if kind != "telemetry":  # windows close for ever
            self.moved_at = clock.monotonic()

    def _deliver(self) -> None:
        folder = bundle.acks(self._device)
        for name in self._medium.names(folder)[:_MAX_ACKS]:
            data = self._medium.read((*folder, name), limit=MAX_MESSAGE_BYTES)
            self._post(Received(kind="ack", payload=data or b""))
        data = self._medium.read(bundle.desired(self._device), limit=MAX_MESSAGE_BYTES)
        if data is not None:
            self._desired = True
            self._post(Received(kind="desired", payload=data))

    def _blocks(self, wanted: BlocksWanted) -> None:
        where = bundle.blob(wanted.digest)
        if not self._medium.has(where):
            self._missing.add(wanted.digest)
            return

        def read(offset: int, length: int) -> bytes:
            return self._medium.read_at(where, offset, length) or b""

        for block in serve.blocks_for(wanted, read):
            self._post(Received(kind="blob", payload=codec.to_msgpack(block)))
            if (
                block.digest,
                block.index,
            ) not in self._given:  # again: it was not what it should be
                self._given.add((block.digest, block.index))
                self.moved_at = clock.monotonic()


def _rows(kind: str, payload: bytes) -> set[tuple[str, int]]:
    """The rows of the buffer that a message of this device carries."""
    if kind in _SINGLE:
        row = codec.from_json(_Row, payload)
        return {(row.boot_epoch, row.seq)}
    if kind == "telemetry":
        windows = codec.from_msgpack(TelemetryBatch, payload).windows
        return {(window.boot_epoch, window.seq) for window in windows}
    return set()
