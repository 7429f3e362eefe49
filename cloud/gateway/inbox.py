"""Messages on their way from the network's thread to the worker: bounded, and fair to each device.

Rules:
- Whatever does not fit is dropped and counted by the caller; devices send again what is not acknowledged.
- No device may fill the inbox: each has a share of its own.
- Telemetry leaves room for what matters more: the last quarter is for everything else.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from typing import NamedTuple

from fleet.wire.topics import Up, UpTopic

MAX_MESSAGES = 4096
MAX_BYTES = 64 << 20
MAX_PER_DEVICE = 256
_TELEMETRY_SHARE = 0.75


class Incoming(NamedTuple):
    """A message as it came."""

    topic: UpTopic
    payload: bytes


class Inbox:
    """A queue between two threads."""

    def __init__(
        self,
        *,
        max_messages: int = MAX_MESSAGES,
        max_bytes: int = MAX_BYTES,
        max_per_device: int = MAX_PER_DEVICE,
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._max_per_device = max_per_device
        self._messages: deque[Incoming] = deque()
        self._bytes = 0
        self._of: Counter[str] = Counter()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Incoming) -> bool:
        """Add a message; False when it does not fit."""
        share = _TELEMETRY_SHARE if message.topic.kind is Up.TELEMETRY else 1.0
        with self._changed:
            fits = (
                not self._closed
                and len(self._messages) < self._max_messages * share
                and self._bytes + len(message.payload) <= self._max_bytes * share
                and self._of[message.topic.device] < self._max_per_device
            )
            if fits:
                self._messages.append(message)
                self._bytes += len(message.payload)
                self._of[message.topic.device] += 1
                self._changed.notify()
            return fits

    def get(self, timeout_s: float) -> Incoming | None:
        """The oldest message; None when none came in time or the inbox is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._messages or self._closed, timeout_s)
            if self._closed or not self._messages:
                return None
            message = self._messages.popleft()
            self._bytes -= len(message.payload)
            self._of[message.topic.device] -= 1
            if not self._of[message.topic.device]:
                del self._of[message.topic.device]
            return message

    def close(self) -> None:
        """Let the reader go; what waits is forgotten, and will be sent again."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
