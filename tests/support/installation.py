"""A real installation for tests: CA, broker, registry, and clients that speak real MQTT."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import paho.mqtt.client as mqtt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from cloud.auth import ca
from cloud.auth.pki import Pki
from cloud.bootstrap import Installation
from cloud.broker import connection, server
from cloud.context import Context
from cloud.gateway.service import Gateway
from cloud.gateway.service import start as start_gateway
from cloud.supervise import Supervisor
from fleet.registry.tables import Device, DeviceKey
from fleet.wire import envelope

T = TypeVar("T")
TENANT = "default"
DAY_S = 86400.0


def eventually(condition: Callable[[], T], what: str, within_s: float = 20.0) -> T:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)
    return found


class Loop:
    """An event loop in a thread of its own, as the cloud's process has one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Awaitable[T], timeout_s: float = 30.0) -> T:
        async def shell() -> T:
            return await work

        future: Future[T] = asyncio.run_coroutine_threadsafe(shell(), self.loop)
        return future.result(timeout_s)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@dataclass
class Identity:
    """A device's key and certificate, as files."""

    device: str
    key: ec.EllipticCurvePrivateKey
    certificate: Path
    key_file: Path

    @property
    def signer(self) -> envelope.Signer:
        return envelope.signer(self.key)


@dataclass
class House:
    """The installation."""

    context: Context
    installation: Installation
    supervisor: Supervisor
    loop: Loop
    folder: Path
    running: Gateway | None = None

    @property
    def pki(self) -> Pki:
        return Pki(self.context.settings.path("ca"))

    @property
    def listeners(self) -> server.Listeners:
        return self.installation.listeners

    def wait_for_broker(self) -> None:
        keys = self.installation.broker_keys
        route = connection.local_route(self.installation.settings)
        eventually(lambda: self.loop.run(server.is_ready(route, keys)), "the broker is ready")

    def message_key(self) -> envelope.PublicKey:
        """The public half of the key that signs messages to devices."""
        pem = self.context.settings.path("keys", "messages.pem").read_bytes()
        key = serialization.load_pem_private_key(pem, password=None)
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        return key.public_key()

    def start_gateway(self) -> Gateway:
        running = self.loop.run(start_gateway(self.context))
        eventually(lambda: running.connected, "the gateway is connected")
        self.running = running
        return running

    def identity(
        self,
        device: str,
        *,
        tenant: str = TENANT,
        register: bool = True,
        lifetime_s: float = DAY_S,
    ) -> Identity:
        key = ca.new_key()
        authority = self.pki.load_authority()
        issued = ca.issue_device(
            authority,
            key.public_key(),
            ca.device_subject(device, tenant),
            now=self.context.clock(),
            lifetime_s=lifetime_s,
        )
        if register:
            self._register(device, tenant, key.public_key(), issued)
        return self._store(device, key, issued.certificate_pem)

    def stranger(self, device: str) -> Identity:
        """A device whose certificate another CA issued."""
        key = ca.new_key()
        other = ca.create(now=self.context.clock())
        issued = ca.issue_device(
            other,
            key.public_key(),
            ca.device_subject(device, TENANT),
            now=self.context.clock(),
            lifetime_s=DAY_S,
        )
        return self._store(f"stranger-{device}", key, issued.certificate_pem)

    def gateway(self) -> Identity:
        """The cloud's own certificate."""
        pair = self.pki.gateway
        return Identity("cloud", ca.new_key(), pair.certificate, pair.key)

    def _register(
        self, device: str, tenant: str, key: ec.EllipticCurvePublicKey, issued: ca.Issued
    ) -> None:
        der = key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        certificate = x509.load_pem_x509_certificate(issued.certificate_pem)
        with self.context.unit() as unit:
            if unit.session.get(Device, device) is None:
                unit.session.add(Device(id=device, tenant=tenant, created_at=unit.now))
                unit.session.flush()
            row = DeviceKey(
                serial=issued.serial,
                device=device,
                key_id=envelope.key_id(key),
                public_key=der,
                certificate=issued.certificate_pem.decode(),
                not_before=certificate.not_valid_before_utc.timestamp(),
                not_after=issued.not_after,
                created_at=unit.now,
            )
            unit.session.add(row)

    def identity_from(self, name: str, key: ec.EllipticCurvePrivateKey, pem: bytes) -> Identity:
        """An identity out of what enrolment gave."""
        return self._store(name, key, pem)

    def message_key_id(self) -> str:
        return envelope.key_id(self.message_key())

    def _store(self, name: str, key: ec.EllipticCurvePrivateKey, pem: bytes) -> Identity:
        certificate, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(pem)
        key_file.write_bytes(ca.private_pem(key))
        return Identity(name, key, certificate, key_file)


@dataclass
class Peer:
    """A real MQTT client that remembers what happened to it."""

    client: mqtt.Client
    connects: list[str] = field(default_factory=list)
    disconnects: list[str] = field(default_factory=list)
    subscribed: list[bool] = field(default_factory=list)
    received: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def connected(self) -> bool:
        return bool(self.client.is_connected())

    def got(self, end: str) -> list[bytes]:
        return [payload for topic, payload in list(self.received) if topic.endswith(end)]


def peer(
    house: House,
    identity: Identity | None,
    *,
    client_id: str | None = None,
    will: str = "",
    will_payload: bytes = b"will",
    subscribe: tuple[str, ...] = (),
    reconnect: bool = True,
) -> Peer:
    """Connect as a device; does not wait."""
    name = client_id if client_id is not None else identity.device if identity else "nobody"
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=name,
        protocol=mqtt.MQTTv311,
        reconnect_on_failure=reconnect,
    )
    made = Peer(client)
    tls = ssl.create_default_context(cafile=str(house.pki.authority.certificate))
    if identity is not None:
        tls.load_cert_chain(identity.certificate, identity.key_file)
    client.tls_set_context(tls)
    client.reconnect_delay_set(0.1, 0.5)
    if will:
        client.will_set(will, will_payload, qos=1)

    def on_connect(_c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        made.connects.append(str(reason))
        if not reason.is_failure:
            for topic in subscribe:
                client.subscribe(topic, qos=0)

    def on_subscribe(_c: Any, _u: Any, _m: Any, reasons: Any, _p: Any) -> None:
        made.subscribed.extend(not reason.is_failure for reason in reasons)

    def on_disconnect(_c: Any, _u: Any, _f: Any, reason: Any, _p: Any) -> None:
        made.disconnects.append(str(reason))

    def on_message(_c: Any, _u: Any, message: mqtt.MQTTMessage) -> None:
        made.received.append((message.topic, message.payload))

    client.on_connect, client.on_subscribe = on_connect, on_subscribe
    client.on_disconnect, client.on_message = on_disconnect, on_message
    client.on_connect_fail = lambda _c, _u: made.disconnects.append("no connection")
    client.connect_async("127.0.0.1", house.listeners.mqtt_port, keepalive=20)
    client.loop_start()
    return made
