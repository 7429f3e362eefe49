"""What becomes of a message from a device.

Rules:
- Every message but presence is an envelope signed by a key that the registry holds for that very device;
  the broker's word for who sent it is not enough.
- An acknowledgement leaves only after the commit of what it acknowledges, and may cover several
  messages of a device.
- Nothing that a device can send raises out of `handle`: it is counted, logged and dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cloud.context import Context
from cloud.errors import AdmissionError, DeniedError
from cloud.gateway import metrics, orders, seals
from cloud.gateway.blocks import BlockServer
from cloud.gateway.inbox import Incoming
from cloud.services import engines, identities, ingest, trust
from cloud.services.proving import Sealed
from fleet.errors import OutriderError, SignatureError, WireError
from fleet.registry.errors import NotFoundError
from fleet.wire import codec
from fleet.wire.messages import (
    Ack,
    Birth,
    BlocksWanted,
    CertificateWanted,
    Command,
    CommandOp,
    EngineBlock,
    EngineFailure,
    EngineOffer,
    Event,
    MetadataWanted,
    Reported,
    Request,
    Status,
    TelemetryBatch,
)
from fleet.wire.topics import Down, Up, UpTopic

Send = Callable[[UpTopic, Down, bytes], None]
log = logging.getLogger(__name__)


class Handler:
    """Handles messages one by one, in the worker's thread.

    Args:
        context: the cloud's surroundings.
        send: sends bytes to the device that a topic came from.
        blocks: sends blocks of blobs.
    """

    def __init__(self, context: Context, send: Send, blocks: BlockServer) -> None:
        self._context = context
        self._send = send
        self._blocks = blocks
        self._acks: dict[UpTopic, dict[str, list[int]]] = {}

    def handle(self, message: Incoming) -> None:
        """Take one message; never raises."""
        kind = message.topic.kind.value
        try:
            self.take(message)
        except WireError as error:
            self._drop(message, "malformed", error)
        except (SignatureError, AdmissionError) as error:
            self._drop(message, "forged", error)
        except (DeniedError, NotFoundError) as error:
            self._drop(message, "refused", error)
        except OutriderError as error:
            self._drop(message, "failed", error)
        except Exception:
            metrics.MESSAGES.labels(kind, "failed").inc()
            log.exception("%s of %s failed", kind, message.topic.device)
        else:
            metrics.MESSAGES.labels(kind, "handled").inc()

    def flush(self) -> None:
        """Send what is to be acknowledged."""
        acks, self._acks = self._acks, {}
        for topic, acked in acks.items():
            payload = codec.to_json(Ack(device=topic.device, acked=acked))
            self._reply(topic, Down.ACK, payload)

    def ask_for_birth(self, topic: UpTopic) -> None:
        """Tell a device to say who it is and what it has.

        Raises:
            NotFoundError: no such device.
        """
        command = Command(id=self._context.ids(), op=CommandOp.REBIRTH)
        self._reply(topic, Down.CMD, codec.to_json(command))

    @property
    def unacknowledged(self) -> int:
        """Devices that wait for `flush`."""
        return len(self._acks)

    def take(self, message: Incoming) -> None:
        """Take one message.

        Raises:
            OutriderError: it does not hold: malformed, forged, or of a device that may not send it.
        """
        topic = message.topic
        if topic.kind is Up.STATUS:
            status = codec.from_json(Status, message.payload)
            self._same(status.device, topic)
            ingest.status(self._context, status)
            if not status.online:
                self.ask_for_birth(topic)  # a late will may speak of the connection before this one
            return
        payload, key = seals.opened(self._context, topic, message.payload)
        if topic.kind is Up.BIRTH:
            self._birth(topic, payload)
        elif topic.kind is Up.REQ:
            request: Any = codec.from_json(Request, payload)  # type: ignore[arg-type]  # a union is a type to msgspec
            self._request(topic, request, Sealed(message.payload, key))
        else:
            acked = self._ingest(topic, payload, Sealed(message.payload, key))
            waiting = self._acks.setdefault(topic._replace(kind=Up.EVENT), {})
            for boot_epoch, numbers in acked.items():
                waiting.setdefault(boot_epoch, []).extend(numbers)

    def _birth(self, topic: UpTopic, payload: bytes) -> None:
        birth = codec.from_json(Birth, payload)
        self._same(birth.device, topic)
        desired = ingest.birth(self._context, birth)
        self._reply(topic, Down.DESIRED, codec.to_json(desired))
        metrics.DESIRED.inc()

    def _request(self, topic: UpTopic, request: Request, sealed: Sealed) -> None:
        if isinstance(request, BlocksWanted):
            refusal = self._blocks.ask(topic, request)
            if refusal is not None:
                self._reply(topic, Down.RES, codec.to_json(refusal))
            return
        if isinstance(request, MetadataWanted):
            desired = trust.sealed_desired(self._context, topic.device, nonce=request.nonce)
            self._send(topic, Down.DESIRED, desired)
            metrics.DESIRED.inc()
            return
        if isinstance(request, CertificateWanted):
            given = identities.renew(self._context, topic.device, request, key=sealed.key)
            self._send(topic, Down.IDENTITY, given)
            return
        if self._engine(topic, request, sealed.envelope):
            for to, command in orders.due(self._context, device=topic.device):
                self._reply(to, Down.CMD, codec.to_json(command))

    def _engine(
        self, topic: UpTopic, request: EngineOffer | EngineFailure | EngineBlock, sealed: bytes
    ) -> bool:
        """Take what a builder says; returns whether there is more to ask of it at once."""
        if isinstance(request, EngineFailure):
            engines.failed(self._context, topic.device, request)
            return False
        if isinstance(request, EngineOffer):
            engines.offered(self._context, topic.device, request, sealed)
            return True
        return engines.received(self._context, topic.device, request)

    def _ingest(self, topic: UpTopic, payload: bytes, sealed: Sealed) -> ingest.Acked:
        if topic.kind is Up.REPORTED:
            report = codec.from_json(Reported, payload)
            self._same(report.device, topic)
            return ingest.reported(self._context, report, sealed)
        if topic.kind is Up.EVENT:
            event = codec.from_json(Event, payload)
            self._same(event.device, topic)
            return ingest.event(self._context, event)
        batch = codec.from_msgpack(TelemetryBatch, payload)
        self._same(batch.device, topic)
        return ingest.telemetry(self._context, batch)

    def _reply(self, topic: UpTopic, kind: Down, payload: bytes) -> None:
        self._send(topic, kind, trust.sealed(self._context, topic.device, kind, payload))

    def _same(self, device: str, topic: UpTopic) -> None:
        if device != topic.device:
            raise SignatureError(
                f"expected a message about {topic.device!r}, found one about {device!r}"
            )

    def _drop(self, message: Incoming, outcome: str, error: OutriderError) -> None:
        kind, device = message.topic.kind.value, message.topic.device
        metrics.MESSAGES.labels(kind, outcome).inc()
        log.warning("%s of %s dropped (%s): %s", kind, device, error.code, error)
