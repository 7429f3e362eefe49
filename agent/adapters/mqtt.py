"""The link to the broker: MQTT 3.1.1 over mutual TLS.

Rules:
- A new client for each connection: nothing is carried over from one that broke, so that no message can
  make the link fail again and again. What must not be lost is in the buffer, not here.
- It counts as connected when the broker has accepted the subscription.
- What the device asks for is bounded by the asking; broadcasts are bounded here, by dropping.
- Reconnecting waits longer after each failure, with jitter, so that a fleet does not come back at once.
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.core.backoff import Backoff
from agent.core.events import Connected, Disconnected, Event, Received
from agent.errors import EnrolmentError
from fleet.errors import WireError
from fleet.wire import codec, topics
from fleet.wire.messages import Status
from fleet.wire.topics import Up

CONNECT_TIMEOUT_S = 15.0
BROADCAST = "broadcast"
MAX_WAITING_BYTES = 8 << 20
"""Blocks of broadcasts that may wait to be handled; what is above is asked for again later."""
_AT_MOST_ONCE = frozenset({Up.REQ.value})


@dataclass(frozen=True)
class Endpoint:
    """Where to connect, and as whom.

    Attributes:
        tls: makes the context of the next connection; raises EnrolmentError.
    """

    host: str
    port: int
    tenant: str
    device: str
    tls: Callable[[], ssl.SSLContext]
    keepalive_s: int = 30


class Link:
    """The link; it keeps itself up on a thread of its own.

    Args:
        endpoint: where to, and as whom.
        post: takes events; called from the link's threads.
    """

    def __init__(self, endpoint: Endpoint, post: Callable[[Event], None]) -> None:
        self._endpoint, self._post = endpoint, post
        self._stopping = threading.Event()
        self._gone = threading.Event()
        self._wake = threading.Event()
        self._client: Client | None = None
        self._up = False
        self._reason = ""
        self._broadcasts = topics.broadcast(endpoint.tenant, "")
        self._waiting_bytes = 0
        self._waiting_lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep_up, name="link", daemon=True)

    def start(self) -> None:
        """Connect, and stay connected until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye and end; the caller may block for a moment."""
        self._stopping.set()
        self._wake.set()
        self._gone.set()
        self._thread.join(timeout=5.0)

    def renew(self) -> None:
        """Connect anew at once, with the certificate of now; nothing that is buffered is lost by it."""
        self._wake.set()
        self._end("there is a new certificate")

    def publish(self, kind: str, payload: bytes) -> None:
        """Send under ``up/{kind}``; lost when the link is down."""
        client = self._client
        if client is not None and self._up:
            qos = 0 if kind in _AT_MOST_ONCE else 1
            client.publish(self._topic(Up(kind)), payload, qos=qos)

    def listen(self, sha256: str, *, on: bool) -> None:
        """Hear a blob's broadcast, or hear it no more; lost when the link is down."""
        client = self._client
        if client is None or not self._up:
            return
        topic = topics.broadcast(self._endpoint.tenant, sha256)
        if on:
            client.subscribe(topic, qos=0)
        else:
            client.unsubscribe(topic)

    def handled(self, event: Received) -> None:
        """A message that was posted has been handled."""
        if event.kind == BROADCAST:
            with self._waiting_lock:
                self._waiting_bytes -= len(event.payload)

    # --- the link's own thread -------------------------------------------------------------------

    def _keep_up(self) -> None:
        backoff = Backoff(1.0, 60.0)
        while not self._stopping.is_set():
            self._gone.clear()
            self._wake.clear()
            steady = self._connect_once()
            if steady:
                backoff.reset()
            pause_s = backoff.next_s() * (0.5 + secrets.randbelow(1000) / 1000)
            self._wake.wait(pause_s)

    def _connect_once(self) -> bool:
        """Hold one connection until it ends; whether it stood at all."""
        self._reason = "ended"
        try:
            client = self._new_client()
            client.connect(self._endpoint.host, self._endpoint.port, self._endpoint.keepalive_s)
        except (OSError, ValueError, EnrolmentError) as error:
            refused = isinstance(error, (ssl.SSLError, EnrolmentError))
            self._post(Disconnected(reason=f"{self._where}: {error}", refused=refused))
            return False
        self._client = client
        client.loop_start()
        self._gone.wait()
        stood, self._up = self._up, False
        if self._stopping.is_set() and stood:
            self._say_goodbye(client)
        client.disconnect()
        client.loop_stop()
        self._client = None
        self._post(Disconnected(reason=f"{self._where}: {self._reason}", refused=not stood))
        return stood

    def _say_goodbye(self, client: Client) -> None:
        client.publish(self._topic(Up.STATUS), self._status(online=False), qos=1).wait_for_publish(
            2.0
        )

    def _new_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._endpoint.device,
            clean_session=True,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.tls_set_context(self._endpoint.tls())
        client.will_set(self._topic(Up.STATUS), self._status(online=False), qos=1)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    @property
    def _where(self) -> str:
        return f"{self._endpoint.host}:{self._endpoint.port}"

    def _topic(self, kind: Up) -> str:
        return topics.up(self._endpoint.tenant, self._endpoint.device, kind)

    def _status(self, *, online: bool) -> bytes:
        return codec.to_json(Status(device=self._endpoint.device, online=online))

    # --- called by the client --------------------------------------------------------------------

    def _on_connect(
        self, client: Client, _: Any, __: ConnectFlags, code: ReasonCode, ___: Properties | None
    ) -> None:
        if code.is_failure:
            self._end(f"refused: {code}")
            return
        result, _mid = client.subscribe(
            topics.down_filter(self._endpoint.tenant, self._endpoint.device), qos=0
        )
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._end("the subscription could not be sent")

    def _on_subscribe(
        self, client: Client, _: Any, __: int, codes: list[ReasonCode], ___: Properties | None
    ) -> None:
        if self._up:
            return  # of a broadcast; one that is refused stays silent, and is not waited for
        if any(code.is_failure for code in codes):
            self._end("the subscription was refused")
            return
        client.publish(self._topic(Up.STATUS), self._status(online=True), qos=1)
        self._up = True
        self._post(Connected())

    def _on_disconnect(
        self, _: Client, __: Any, ___: DisconnectFlags, code: ReasonCode, ____: Properties | None
    ) -> None:
        self._end(str(code))

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        topic, payload = message.topic, bytes(message.payload)
        if topic.startswith(self._broadcasts):
            with self._waiting_lock:
                if self._waiting_bytes + len(payload) > MAX_WAITING_BYTES:
                    return
                self._waiting_bytes += len(payload)
            self._post(Received(kind=BROADCAST, payload=payload))
            return
        try:
            kind = topics.parse_down(topic)
        except WireError:
            return
        self._post(Received(kind=kind.value, payload=payload))

    def _end(self, reason: str) -> None:
        if not self._gone.is_set():
            self._reason = reason
            self._gone.set()
