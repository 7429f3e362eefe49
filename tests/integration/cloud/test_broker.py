"""The real broker lets in whom the registry admits, and nobody sees or says what is not theirs."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Callable

import nats.errors
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from support.installation import House, Peer, eventually

from cloud.auth import ca
from cloud.broker import callout, connection, work_names
from cloud.broker.connection import Route
from cloud.services import workers
from cloud.services.workers import Introduction
from fleet.registry.tables import Device

Connect = Callable[..., Peer]
DOWN = "outrider/v1/default/d/{}/down/+"
UP = "outrider/v1/default/d/{}/up/{}"


def refused(peer: Peer) -> bool:
    return any("Not authorized" in reason for reason in peer.connects)


def test_an_enrolled_device_connects_and_an_unregistered_one_does_not(
    answered: House, connect: Connect
):
    known = connect(answered.identity("known"), subscribe=(DOWN.format("known"),))
    eventually(lambda: known.connected and known.subscribed == [True], "connect")
    unknown = connect(answered.identity("unknown", register=False))
    eventually(lambda: refused(unknown), "refusal")
    assert not unknown.connected


def test_without_a_certificate_of_this_fleet_there_is_no_connection(
    answered: House, connect: Connect
):
    known = connect(answered.identity("known"))
    nobody = connect(None)
    stranger = connect(answered.stranger("known"))
    eventually(lambda: len(nobody.disconnects) > 1 and len(stranger.disconnects) > 1, "failures")
    eventually(lambda: known.connected, "connect")
    assert not nobody.connected
    assert not stranger.connected


def test_a_client_id_that_is_not_the_certificates_name_is_refused(
    answered: House, connect: Connect
):
    answered.identity("victim")
    impostor = connect(answered.identity("impostor"), client_id="victim")
    eventually(lambda: refused(impostor), "refusal")
    as_cloud = connect(answered.identity("other"), client_id="cloud:gateway")
    eventually(lambda: refused(as_cloud), "refusal")


def test_a_device_of_another_tenant_is_refused(answered: House, connect: Connect):
    answered.identity("known")
    moved = connect(answered.identity("known", tenant="other"))
    eventually(lambda: refused(moved), "refusal")


def test_foreign_topics_are_neither_heard_nor_said(answered: House, connect: Connect):
    watched = ("outrider/v1/default/d/b/down/+", "outrider/v1/+/d/+/up/+", "#", "$SYS/#", "$MQTT/#")
    spy = connect(answered.identity("a"), subscribe=(*watched, DOWN.format("a")))
    eventually(lambda: len(spy.subscribed) == 6, "answers to all subscriptions")
    assert spy.subscribed == [False] * 5 + [True]

    cloud = connect(
        answered.gateway(), client_id="cloud:test", subscribe=("outrider/v1/+/d/+/up/+",)
    )
    eventually(lambda: cloud.subscribed == [True], "the cloud's subscription")
    spy.client.publish(UP.format("b", "event"), b"forged", qos=0)
    spy.client.publish(DOWN.format("b").replace("+", "cmd"), b"forged", qos=0)
    spy.client.publish(UP.format("a", "event"), b"own", qos=0)
    eventually(lambda: cloud.received, "own message")
    assert cloud.received == [(UP.format("a", "event"), b"own")]
    assert spy.received == []


def test_a_forged_will_is_never_heard(answered: House, connect: Connect):
    cloud = connect(
        answered.gateway(), client_id="cloud:test", subscribe=("outrider/v1/+/d/+/up/+",)
    )
    eventually(lambda: cloud.subscribed == [True], "the cloud's subscription")
    forged, own = UP.format("victim", "status"), UP.format("b", "status")
    forger = connect(answered.identity("forger"), will=forged, reconnect=False)
    honest = connect(answered.identity("b"), will=own, reconnect=False)
    eventually(lambda: forger.connects and honest.connected, "answers")
    for each in (forger, honest):
        if each.connected:
            each.client.socket().shutdown(2)
            eventually(lambda each=each: each.disconnects, "cut")
    eventually(lambda: cloud.received, "the honest will")
    assert cloud.received == [(own, b"will")]


def test_the_will_of_a_device_that_vanishes_reaches_the_cloud(answered: House, connect: Connect):
    cloud = connect(
        answered.gateway(), client_id="cloud:test", subscribe=("outrider/v1/+/d/+/up/+",)
    )
    eventually(lambda: cloud.subscribed == [True], "the cloud's subscription")
    device = connect(answered.identity("a"), will=UP.format("a", "status"), reconnect=False)
    eventually(lambda: device.connected, "connect")
    device.client.socket().shutdown(2)
    eventually(lambda: cloud.received == [(UP.format("a", "status"), b"will")], "the will")


def test_revocation_cuts_the_live_connection_and_keeps_the_device_out(
    answered: House, connect: Connect
):
    device = connect(answered.identity("a"))
    other = connect(answered.identity("b"))
    eventually(lambda: device.connected and other.connected, "both connected")
    with answered.context.unit() as unit:
        row = unit.session.get(Device, "a")
        assert row is not None
        row.revoked_at = unit.now
        unit.publish("revoked", device="a")
    eventually(lambda: device.disconnects and refused(device), "cut and refused")
    assert not device.connected
    assert other.connected
    assert not other.disconnects


def test_a_lost_hint_is_made_good_by_the_sweep(answered: House, connect: Connect, monkeypatch):
    device = connect(answered.identity("a"))
    eventually(lambda: device.connected, "connected")
    with answered.context.unit() as unit:
        row = unit.session.get(Device, "a")
        assert row is not None
        row.revoked_at = unit.now
    late = answered.loop.run(callout.start(answered.context))
    try:
        eventually(lambda: device.disconnects, "cut")
    finally:
        answered.loop.run(late.stop())


def test_after_kill_9_the_broker_and_its_clients_come_back(answered: House, connect: Connect):
    device = connect(answered.identity("a"), subscribe=(DOWN.format("a"),))
    cloud = connect(answered.gateway(), client_id="cloud:test")
    eventually(lambda: device.subscribed and cloud.connected, "connected")
    os.kill(answered.supervisor.pids()["broker"], signal.SIGKILL)
    eventually(lambda: device.disconnects and cloud.disconnects, "cut")
    eventually(lambda: len(device.subscribed) == 2 and cloud.connected, "back")
    cloud.client.publish("outrider/v1/default/d/a/down/cmd", b"hello", qos=0)
    eventually(lambda: device.got("/down/cmd") == [b"hello"], "a message after the restart")


def test_without_a_responder_nobody_gets_in(house: House, connect: Connect):
    device = connect(house.identity("a"))
    eventually(lambda: device.connects or len(device.disconnects) > 3, "an answer")
    assert not device.connected


def test_every_listener_is_on_loopback(answered: House):
    broker = psutil.Process(answered.supervisor.pids()["broker"])
    listening = [c.laddr for c in broker.net_connections() if c.status == psutil.CONN_LISTEN]
    assert {a.port for a in listening} == {
        answered.listeners.mqtt_port,
        answered.listeners.nats_port,
    }
    assert {a.ip for a in listening} == {"127.0.0.1"}


def worker_route(house: House, name: str) -> tuple[Route, str]:
    """The way to the broker of a worker that has just registered, and the serial of its certificate."""
    key = ca.new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "whatever")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    authority = house.pki.load_authority()
    given = Introduction(name=name, session="", toolchains=["onnx"], host={}, version="")
    made = workers.register(
        house.context, authority, given, token="", by="test",
        csr_pem=csr.public_bytes(serialization.Encoding.PEM),
    )  # fmt: skip
    certificate, key_file = house.folder / f"{name}.pem", house.folder / f"{name}.key"
    certificate.write_text(made.certificate_pem)
    key_file.write_bytes(ca.private_pem(key))
    tls = connection.tls(ca_pem=authority.pem().decode(), certificate=certificate, key=key_file)
    return Route("127.0.0.1", house.listeners.nats_port, tls), made.session


async def denied(route: Route, name: str) -> list[str]:
    """What the broker said to a worker that tries everything."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def note(error: Exception) -> None:
        told.put_nowait(str(error).lower())

    client = await connection.connect(
        route, name=name, inbox_prefix=work_names.inbox(name), error_cb=note
    )
    for subject in (
        "outrider.jobs.onnx.forged",
        "outrider.v1.default.d.a.down.cmd",
        "$JS.API.STREAM.LIST",
    ):
        await client.publish(subject, b"{}")
    for subject in ("outrider.jobs.>", "outrider.v1.>", "_INBOX.>", "_INBOX_other.>", ">"):
        await client.subscribe(subject)
    await client.subscribe(work_names.HINTS)
    await client.flush()
    async with asyncio.timeout(10):
        said = [await told.get() for _ in range(8)]
    await client.close()
    return said + [told.get_nowait() for _ in range(told.qsize())]


def test_a_worker_has_the_queue_and_nothing_else(answered: House):
    route, _ = worker_route(answered, "box")
    said = answered.loop.run(denied(route, "box"))
    assert len(said) == 8
    assert all("permissions violation" in it for it in said)
    assert not any(work_names.HINTS in it for it in said)


def test_a_worker_that_was_forgotten_or_has_newer_papers_is_refused(answered: House):
    old, _ = worker_route(answered, "box")
    new, _ = worker_route(answered, "box")

    async def lets_in(route: Route) -> bool:
        try:
            client = await connection.connect(
                route, name="box", allow_reconnect=False, max_reconnect_attempts=1
            )
        except (nats.errors.Error, OSError):
            return False
        await client.close()
        return True

    assert not answered.loop.run(lets_in(old))
    assert answered.loop.run(lets_in(new))
    workers.forget(answered.context, "box", by="test")
    assert not answered.loop.run(lets_in(new))


def test_nobody_reaches_the_queue_without_a_certificate(answered: House):
    tls = ssl.create_default_context(cadata=answered.pki.authority.certificate.read_text())
    bare = Route("127.0.0.1", answered.listeners.nats_port, tls)

    async def try_to() -> None:
        await connection.connect(bare, name="x", allow_reconnect=False, max_reconnect_attempts=1)

    with pytest.raises((nats.errors.Error, OSError)):
        answered.loop.run(try_to())
