"""The gateway: devices' messages into the registry, and the registry's will back to the devices.

Rules:
- Nothing is kept here that may not be lost: what was not acknowledged comes again, what should be known is
  read from the registry. Killing this process at any moment loses nothing.
- Threads: paho's takes messages off the network into the inbox; the worker handles them one by one;
  another sends blocks; another pushes desired states.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from cloud.auth.pki import Pki
from cloud.context import Context
from cloud.gateway import metrics
from cloud.gateway.blocks import BlockServer, Outlets
from cloud.gateway.handler import Handler
from cloud.gateway.inbox import Inbox, Incoming
from cloud.gateway.link import Address, Link, Sent
from cloud.gateway.pushes import Pushes
from cloud.services import trust
from fleet.errors import WireError
from fleet.wire import codec, topics
from fleet.wire.messages import Refusal
from fleet.wire.topics import Down, UpTopic

_ACK_DEVICES = 32
_POLL_S = 0.5
log = logging.getLogger(__name__)


class Gateway:
    """The running gateway."""

    def __init__(self, context: Context, link: Link) -> None:
        self._link = link
        self._inbox = Inbox()
        self._context = context
        outlets = Outlets(block=self._send_block, to_all=self._send_to_all, refuse=self._refuse)
        self._blocks = BlockServer(context, outlets)
        self._handler = Handler(context, self._send, self._blocks)
        self._pushes = Pushes(context, self._send, lambda: link.connected)
        self._closing = threading.Event()
        self._worker = threading.Thread(target=self._work, name="gateway-worker", daemon=True)
        link.on_message = self._take
        link.on_ready = self._pushes.ready

    @property
    def connected(self) -> bool:
        """Whether devices are heard now."""
        return self._link.connected

    def start(self) -> None:
        """Start every thread; does not wait for the broker."""
        self._worker.start()
        self._blocks.start()
        self._pushes.start()
        self._link.start()

    async def stop(self) -> None:
        """End every thread; what waits in the inbox will be sent again by its devices."""
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        self._closing.set()
        self._pushes.stop()
        self._blocks.stop()
        self._inbox.close()
        self._worker.join()
        self._link.stop()

    def _take(self, topic: str, payload: bytes) -> None:
        try:
            message = Incoming(topics.parse_up(topic), payload)
        except WireError as error:
            metrics.MESSAGES.labels("unknown", "malformed").inc()
            log.warning("message dropped: %s", error)
            return
        if not self._inbox.put(message):
            metrics.MESSAGES.labels(message.topic.kind.value, "dropped").inc()

    def _work(self) -> None:
        while not self._closing.is_set():
            metrics.WAITING.set(len(self._inbox))
            message = self._inbox.get(_POLL_S)
            if message is not None:
                self._handler.handle(message)
            if not len(self._inbox) or self._handler.unacknowledged >= _ACK_DEVICES:
                self._flush()

    def _flush(self) -> None:
        try:
            self._handler.flush()
        except Exception:
            log.exception("acknowledgements could not be sent; the devices will ask again")

    def _send(self, topic: UpTopic, kind: Down, payload: bytes) -> None:
        self._link.publish(topics.down(topic.tenant, topic.device, kind), payload)

    def _send_block(self, topic: UpTopic, payload: bytes) -> Sent:
        return self._link.publish(topics.down(topic.tenant, topic.device, Down.BLOB), payload)

    def _send_to_all(self, tenant: str, digest: str, payload: bytes) -> Sent:
        return self._link.publish(topics.broadcast(tenant, digest), payload)

    def _refuse(self, topic: UpTopic, refusal: Refusal) -> None:
        payload = codec.to_json(refusal)
        sealed = trust.sealed(self._context, topic.device, Down.RES, payload)
        self._send(topic, Down.RES, sealed)


async def start(context: Context) -> Gateway:
    """Start the gateway of an installation; it connects in the background."""
    settings = context.settings
    link = Link(Address(*settings.device_broker(settings.local_host)), Pki(settings.path("ca")))
    gateway = Gateway(context, link)
    gateway.start()
    return gateway
