"""Transfers for real: the daemon, a real broker, a real HTTPS server, and links that are thin or bad."""

from __future__ import annotations

import hashlib
import http.client
import random
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.artifacts import attested, classify
from support.installation import House, Identity, eventually
from support.mqtt_device import assign
from support.real_agent import Agent, enrolled, push
from support.thin_link import ThinLink
from support.transfers import target_of
from support.wave_device import WaveDevice

from agent.adapters import tls
from agent.adapters.mqtt import Endpoint
from cloud.gateway import enrol_server, metrics
from cloud.gateway.blocks import BlockServer
from cloud.gateway.service import Gateway
from cloud.services import enrolment, trust
from fleet.artifact import package
from fleet.registry.repositories import Devices, Telemetry
from fleet.wire import codec
from fleet.wire.messages import Command, CommandOp
from fleet.wire.topics import Down, Up, UpTopic
from ota.transfer.terms import Terms

pytestmark = pytest.mark.slow

THIN_BYTES_S = 32_000
"""256 kbit/s."""


@pytest.fixture
def device(wired: House, tmp_path: Path) -> Iterator[Agent]:
    with enrolled(wired, tmp_path / "device") as agent:
        yield agent


def artifact(*, size: int, seed: int = 1) -> bytes:
    """An attested artifact of about `size` bytes: a model with random bytes behind it."""
    plain = classify("classify.tflite", model="digits")
    payload = plain.payload + random.Random(seed).randbytes(max(0, size - len(plain.payload)))
    described = msgspec.structs.replace(
        plain.manifest.payload,
        sha256=hashlib.sha256(payload).hexdigest(),
        size_bytes=len(payload),
    )
    manifest = msgspec.structs.replace(plain.manifest, payload=described)
    return package.write(
        attested(msgspec.structs.replace(plain, manifest=manifest, payload=payload))
    )


def reports(house: House, state: str) -> list[Any]:
    with house.context.read() as session:
        found = Telemetry(session).reports("camera-1")
        return [report for report in found if report.state == state]


def staged(house: House, within_s: float = 60) -> dict[str, float]:
    found = eventually(lambda: reports(house, "staged"), "the bytes are in their slot", within_s)
    return dict(found[0].figures)


def birth_at(house: House) -> float:
    with house.context.read() as session:
        return Devices(session).get("camera-1").birth_at or 0.0


def test_at_256_kbit_s_control_messages_wait_behind_a_second_of_blocks_at_most(
    wired: House, device: Agent
):
    link = ThinLink(wired.listeners.mqtt_port, rate_bytes_s=THIN_BYTES_S)
    try:
        device.config.write_text(device.config.read_text() + f"[broker]\nport = {link.port}\n")
        device.start()
        eventually(lambda: device.status().get("connected"), "connected", 60)
        push(device, artifact(size=400_000), "1")
        eventually(lambda: reports(wired, "fetching"), "it fetches", 60)
        link.backlog_most = 0
        before = birth_at(wired)
        command = Command(id="c1", op=CommandOp.REBIRTH)
        sealed = trust.sealed(wired.context, "camera-1", Down.CMD, codec.to_json(command))
        assert wired.running is not None
        wired.running._send(UpTopic("default", "camera-1", Up.BIRTH), Down.CMD, sealed)
        eventually(lambda: birth_at(wired) > before, "the command got through")
        assert not reports(wired, "staged")
        figures = staged(wired)
        assert figures["blocks_by_https"] == 0
        assert (
            10_000 < link.backlog_most < 1.6 * THIN_BYTES_S
        )  # blocks, and the answer to the birth
    finally:
        link.close()


def test_a_broker_that_drops_repeats_and_reorders_costs_time_alone(
    wired: House, device: Agent, monkeypatch: pytest.MonkeyPatch
):
    rng = random.Random(7)
    held: list[tuple[UpTopic, bytes]] = []
    genuine = Gateway._send_block

    def bad(self: Gateway, topic: UpTopic, payload: bytes) -> Any:
        draw = rng.random()
        if draw < 0.1:
            held.append((topic, payload))  # comes later, or never
        elif draw < 0.2:
            genuine(self, topic, payload)
        if held and rng.random() < 0.1:
            genuine(self, *held.pop(rng.randrange(len(held))))
        return genuine(self, topic, payload if draw >= 0.1 else b"")

    outlets = wired.running._blocks._outlets
    bent = type(outlets)(
        block=lambda topic, payload: bad(wired.running, topic, payload),
        to_all=outlets.to_all,
        refuse=outlets.refuse,
    )
    monkeypatch.setattr(wired.running._blocks, "_outlets", bent)
    device.start()
    data = artifact(size=8 << 20)
    push(device, data, "1")
    figures = staged(wired, 120)
    assert figures["bytes_done"] == len(data)
    assert rng.random() != random.Random(7).random()


# --- HTTPS ----------------------------------------------------------------------------------------


def ask(
    house: House, port: int, identity: Identity | None, path: str, **headers: str
) -> tuple[int, bytes, str]:
    tls = ssl.create_default_context(cafile=str(house.pki.authority.certificate))
    if identity is not None:
        tls.load_cert_chain(identity.certificate, identity.key_file)
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=tls, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers.get("Content-Range", "")
    finally:
        connection.close()


def test_blobs_over_https_are_for_devices_that_they_are_assigned_to(wired: House):
    service = wired.loop.run(enrol_server.start(wired.context))
    assert service._listener is not None
    port = service._listener.getsockname()[1]
    try:
        owner, thief = wired.identity("owner"), wired.identity("thief")
        data = bytes(range(256)) * 1000
        row = assign(wired, "owner", data)
        path = f"/blobs/{row.sha256}"
        assert ask(wired, port, owner, path)[:2] == (200, data)
        status, body, where = ask(wired, port, owner, path, Range="bytes=1000-1999")
        assert (status, body, where) == (206, data[1000:2000], f"bytes 1000-1999/{len(data)}")
        assert ask(wired, port, owner, f"/blobs/{row.blocks_sha256}")[0] == 200
        assert ask(wired, port, owner, path, Range=f"bytes={len(data)}-")[0] == 416
        assert ask(wired, port, thief, path)[0] == 403
        assert ask(wired, port, None, path)[0] == 403
        assert ask(wired, port, owner, "/blobs/..%2f..%2fcloud.json")[0] in {403, 404}
        assert b"nobody" not in ask(wired, port, owner, "/blobs/" + "0" * 64)[1]
        with wired.context.unit() as unit:
            enrolment.revoke(unit, "owner", actor="test")
        assert ask(wired, port, owner, path)[0] == 403
    finally:
        wired.loop.run(service.stop())


def test_what_is_longer_than_the_operator_set_comes_over_https(
    wired: House, device: Agent, monkeypatch: pytest.MonkeyPatch
):
    settings = msgspec.structs.replace(wired.context.settings, https_above_mib=1.0)
    object.__setattr__(wired.context, "settings", settings)
    served = metrics.HTTPS_REQUESTS._value.get()
    device.start()
    data = artifact(size=6 << 20)
    push(device, data, "1")
    figures = staged(wired)
    assert figures["blocks_by_https"] == -(-len(data) // (64 << 10))
    assert metrics.HTTPS_REQUESTS._value.get() > served


def test_when_mqtt_brings_no_blocks_any_more_https_goes_on_where_it_was(
    wired: House, device: Agent, monkeypatch: pytest.MonkeyPatch
):
    data = artifact(size=6 << 20)
    total = -(-len(data) // (64 << 10))
    genuine = BlockServer._serve_one
    sent = 0

    def half(self: BlockServer, line: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > total // 2:
            self._finish_request(line)
            return
        genuine(self, line)

    monkeypatch.setattr(BlockServer, "_serve_one", half)
    device.start()
    push(device, data, "1")
    figures = staged(wired, 90)
    assert figures["bytes_done"] == len(data)
    assert 0 < figures["blocks_by_https"] < 0.8 * total


# --- broadcast ------------------------------------------------------------------------------------


def wave_device(house: House, name: str, data: bytes, folder: Path) -> WaveDevice:
    identity = house.identity(name)
    assign(house, name, data)
    endpoint = Endpoint(
        host="127.0.0.1",
        port=house.listeners.mqtt_port,
        tenant="default",
        device=name,
        tls=lambda: tls.context(
            house.pki.authorities().decode(),
            lambda: 0.0,
            certificate_pem=identity.certificate.read_text(),
            key=identity.key_file,
        ),
    )
    target = target_of(data, size=64 << 10, terms=Terms(shared=5))
    return WaveDevice(endpoint, identity.signer, target, folder / name)


def test_a_wave_shares_one_broadcast_and_a_late_device_is_repaired(wired: House, tmp_path: Path):
    data = random.Random(9).randbytes(12 << 20)
    devices = [wave_device(wired, f"w{n}", data, tmp_path) for n in range(6)]
    before = metrics.BROADCAST_BYTES._value.get(), metrics.BLOCK_BYTES._value.get()
    try:
        for each in devices:
            each.start()
        for each in devices:
            assert each.up.wait(20)
        for each in devices:
            each.fetch()
        for each in devices:
            assert each.done.wait(60), each.endpoint.device
        assert all(each.content() == data for each in devices)
        counts = [each.by_broadcast for each in devices]
        assert min(counts) > 150, counts
        by_broadcast = metrics.BROADCAST_BYTES._value.get() - before[0]
        to_each = metrics.BLOCK_BYTES._value.get() - before[1]
        assert by_broadcast + to_each <= 1.1 * len(data)
    finally:
        for each in devices:
            each.stop()
