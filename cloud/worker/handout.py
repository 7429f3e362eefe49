"""The work queue from a worker's side: one message at a time, and what became of it.

Rules:
- A message is asked for only when there is room for its work; the broker keeps it for this worker for
  `redeliver_s`, and for longer as long as `keep` is called.
- Acknowledgements are subjects, so they may leave by a later connection than the message came by.
- What the broker does not answer is nothing to do: the worker asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from cloud.broker import connection, work_names
from cloud.broker.work_stream import read
from cloud.worker.desk import Papers

_ASK_S = 2.0
_CONNECT_S = 10.0


@dataclass
class Delivery:
    """A message in this worker's hands; `reply` is where its fate is told."""

    unit: str
    reply: str


class Handout:
    """The connection to the queue; replaced by a new one when the papers are."""

    def __init__(self, hinted: Callable[[dict[str, Any]], None]) -> None:
        self._hinted = hinted
        self._client: Client | None = None

    @property
    def connected(self) -> bool:
        """Whether messages get through now."""
        return self._client is not None and self._client.is_connected

    async def connect(self, papers: Papers) -> None:
        """Connect with new papers, then leave the old connection.

        Raises:
            OSError, nats.errors.Error, TimeoutError: the broker does not let this worker in.
        """
        client = Client()
        # Apart, so that cancelling this never waits for a client that is in the middle of something.
        opening = asyncio.create_task(self._open(client, papers))
        try:
            await asyncio.wait_for(asyncio.shield(opening), _CONNECT_S)
        except BaseException:
            opening.cancel()
            await connection.close(client)
            raise
        old, self._client = self._client, client
        if old is not None:
            await connection.close(old)

    async def _open(self, client: Client, papers: Papers) -> None:
        await connection.connect(
            papers.route,
            name=f"worker:{papers.who.name}",
            client=client,
            inbox_prefix=papers.inbox,
        )
        await client.subscribe(work_names.HINTS, cb=self._hear)
        await client.flush()

    async def close(self) -> None:
        """Leave; what was said last is still sent."""
        if self._client is not None:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await self._client.flush(1)
            await connection.close(self._client)

    async def ask(self, toolchain: str) -> Delivery | None:
        """The next message for a toolchain; None when there is none, or no answer."""
        if self._client is None or not self.connected:
            return None
        name = f"{work_names.STREAM}.{work_names.consumer(toolchain)}"
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            answer = await self._client.request(
                f"$JS.API.CONSUMER.MSG.NEXT.{name}",
                json.dumps({"batch": 1, "no_wait": True}).encode(),
                timeout=_ASK_S,
                old_style=True,  # the answer comes under the unit's own subject, not the inbox's
            )
            unit = read(answer.data).get("unit")
            if answer.reply and isinstance(unit, str):
                return Delivery(unit, answer.reply)
        return None

    async def keep(self, delivery: Delivery) -> None:
        """Still at it: the message stays with this worker."""
        await self._say(delivery, b"+WPI")

    async def done(self, delivery: Delivery) -> None:
        """The message is spent."""
        await self._say(delivery, b"+ACK")

    async def later(self, delivery: Delivery, delay_s: float) -> None:
        """Somebody may have it, after a while."""
        delay = json.dumps({"delay": int(delay_s * 1e9)})
        await self._say(delivery, f"-NAK {delay}".encode())

    async def _say(self, delivery: Delivery, what: bytes) -> None:
        if self._client is not None and not self._client.is_closed:
            with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
                await self._client.publish(delivery.reply, what)

    async def _hear(self, message: Msg) -> None:
        self._hinted(read(message.data))
