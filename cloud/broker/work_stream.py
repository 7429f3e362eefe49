"""The work queue from the cloud's side: a JetStream stream with one message for each open unit of work.

Rules:
- The stream holds at most one message per subject and refuses a second one, so that putting a unit in again
  is always safe; what was acknowledged is gone (retention ``workqueue``).
- A message says which unit, nothing more: everything else is read from the registry when it is begun.
- How often a message is delivered is not limited here: the registry counts attempts, and a delivery that
  nobody could begin is none.
- The broker may forget all of this: it is made anew.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StreamConfig

from cloud.broker import work_names
from cloud.errors import QueueError

TRIES = 5
_RETRY_S = 0.3
_TIMEOUT_S = 5.0
_FULL = 10077
"""JetStream's code for: this subject has its message already."""
_TRANSIENT = (
    nats.js.errors.NoStreamResponseError,
    nats.js.errors.ServiceUnavailableError,
    nats.errors.NoRespondersError,
    nats.errors.TimeoutError,
    TimeoutError,
)

T = TypeVar("T")


class WorkStream:
    """The stream, over a connection of the cloud's."""

    def __init__(self, client: Client, *, redeliver_s: float) -> None:
        self._client = client
        self._stream: JetStreamContext = client.jetstream(timeout=_TIMEOUT_S)
        self._redeliver_s = redeliver_s
        self._consumers: set[str] = set()

    async def prepare(self) -> None:
        """Make the stream, or bring it to what it should be. Raises QueueError."""
        self._consumers.clear()
        config = StreamConfig(
            name=work_names.STREAM,
            subjects=[f"{work_names.ROOT}.*.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_msgs_per_subject=1,
        )
        try:
            await _retried(lambda: self._stream.add_stream(config))
        except QueueError:
            await _retried(lambda: self._stream.update_stream(config))

    async def lying(self) -> set[str]:
        """The subjects that have a message. Raises QueueError."""
        info = await _retried(
            lambda: self._stream.stream_info(work_names.STREAM, subjects_filter=">")
        )
        return set(info.state.subjects or {})

    async def put(self, toolchain: str, unit: str) -> bool:
        """Put a unit in and tell the workers; False when it lies there already. Raises QueueError."""
        await self._consume(toolchain)
        subject = work_names.subject(toolchain, unit)
        body = json.dumps({"unit": unit}).encode()
        try:
            await _retried(lambda: self._stream.publish(subject, body))
        except QueueError as error:
            if (
                isinstance(error.__cause__, nats.js.errors.APIError)
                and error.__cause__.err_code == _FULL
            ):
                return False
            raise
        await self.hint(toolchain=toolchain)
        return True

    async def take_out(self, subject: str) -> None:
        """Remove the message of a subject, delivered or not. Raises QueueError."""
        await _retried(lambda: self._stream.purge_stream(work_names.STREAM, subject=subject))

    async def hint(self, **words: str) -> None:
        """Tell whoever listens: `toolchain` has work, or `unit` was decided on."""
        await self._client.publish(work_names.HINTS, json.dumps(words).encode())

    async def _consume(self, toolchain: str) -> None:
        if toolchain in self._consumers:
            return
        config = ConsumerConfig(
            durable_name=work_names.consumer(toolchain),
            filter_subject=work_names.consumed(toolchain),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._redeliver_s,
            max_deliver=-1,
        )
        await _retried(lambda: self._stream.add_consumer(work_names.STREAM, config))
        self._consumers.add(toolchain)


async def _retried(call: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the broker elects, restarts or is slow.

    Raises:
        QueueError: it refuses, or does not answer.
    """
    last: BaseException | None = None
    for attempt in range(TRIES):
        try:
            return await call()
        except _TRANSIENT as error:
            last = error
            await asyncio.sleep(_RETRY_S * (attempt + 1))
        except (nats.errors.Error, OSError) as error:
            raise QueueError(
                f"the broker refused what was asked of the work queue: {error!r}"
            ) from error
    raise QueueError(f"the work queue does not answer: {last!r}") from last


def read(data: bytes) -> dict[str, Any]:
    """A message or a hint; empty when it is neither."""
    try:
        document = json.loads(data)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
