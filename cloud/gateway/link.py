"""The cloud's own MQTT connection: paho in a thread, over mTLS, for ever reconnecting.

Rules:
- It hears every device's ``up`` at QoS 0: what is lost is sent again by the device, and a QoS 0
  subscription costs the broker nothing.
- `publish` never blocks and never queues while the connection is down: what could not be sent is false,
  and is made good by the device's next birth.
- `on_message` and `on_ready` run in paho's thread and must be quick.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from cloud.auth.pki import Pki
from cloud.broker.permissions import CLOUD_PREFIX
from cloud.gateway import metrics
from fleet.wire import topics

_KEEPALIVE_S = 20
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where the broker is."""

    host: str
    port: int


class Sent:
    """A message handed to the connection."""

    def __init__(self, info: mqtt.MQTTMessageInfo) -> None:
        self._info = info

    @property
    def gone(self) -> bool:
        """Whether it has left, or never will."""
        try:
            return bool(self._info.is_published())
        except RuntimeError:  # how paho tells that it was lost
            return True


class Link:
    """The connection.

    Args:
        address: of the broker.
        pki: holds the cloud's certificate and the CA.
        client_id: without the cloud's prefix; one per process.
    """

    def __init__(self, address: Address, pki: Pki, *, client_id: str = "gateway") -> None:
        self._address = address
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.on_ready: Callable[[], None] = lambda: None
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=CLOUD_PREFIX + client_id,
            protocol=mqtt.MQTTv311,
        )
        tls = ssl.create_default_context(cadata=pki.authorities().decode())
        tls.minimum_version = ssl.TLSVersion.TLSv1_2
        tls.load_cert_chain(pki.gateway.certificate, pki.gateway.key)
        self._client.tls_set_context(tls)
        self._client.reconnect_delay_set(min_delay=1, max_delay=5)
        self._client.on_connect = self._connected
        self._client.on_subscribe = self._subscribed
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._received

    @property
    def connected(self) -> bool:
        """Whether messages get through now."""
        return bool(self._client.is_connected())

    def start(self) -> None:
        """Connect in the background, and again whenever the connection is lost."""
        self._client.connect_async(self._address.host, self._address.port, _KEEPALIVE_S)
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect and end the thread."""
        self._client.disconnect()
        self._client.loop_stop()
        metrics.CONNECTED.set(0)

    def publish(self, topic: str, payload: bytes) -> Sent:
        """Send a message at QoS 0."""
        return Sent(self._client.publish(topic, payload, qos=0))

    def _connected(self, client: mqtt.Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        if reason.is_failure:
            log.warning("the broker refused the cloud's connection: %s", reason)
            return
        client.subscribe(topics.up_filter(), qos=0)

    def _subscribed(self, _c: mqtt.Client, _u: Any, _m: Any, reasons: Any, _p: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            log.error("the broker refused the cloud's subscription to %s", topics.up_filter())
            return
        metrics.CONNECTED.set(1)
        log.info("connected to the broker")
        self.on_ready()

    def _disconnected(self, _c: mqtt.Client, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        metrics.CONNECTED.set(0)
        log.info("disconnected from the broker: %s", reason)

    def _received(self, _c: mqtt.Client, _u: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        try:
            self.on_message(topic, bytes(message.payload))
        except Exception:
            log.exception("a message on %s could not be taken", topic)
