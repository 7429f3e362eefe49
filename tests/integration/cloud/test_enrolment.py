"""Enrolment over real HTTPS: who brings a good claim gets a certificate that the broker accepts."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from support.installation import House, Peer, eventually
from support.mqtt_device import Device

from agent import enrol as agent_enrol
from agent.adapters.identity import Identity
from agent.errors import EnrolmentError
from cloud.audit import chain
from cloud.gateway import enrol_server
from cloud.services import enrolment
from fleet.registry.repositories import Audit, Devices
from fleet.wire import codec, envelope
from fleet.wire.messages import CertificateWanted, Desired
from ota.verify import trust

Connect = Callable[..., Peer]


@pytest.fixture
def open_house(answered: House) -> Iterator[House]:
    """The house with its enrolment server."""
    service = answered.loop.run(enrol_server.start(answered.context))
    yield answered
    answered.loop.run(service.stop())


def claim(house: House, device: str, *, expires_s: float = 600.0) -> str:
    with house.context.unit() as unit:
        made = enrolment.create_claim(
            unit,
            device=device,
            tenant="default",
            labels={"site": "hall"},
            expires_s=expires_s,
            actor="test",
            ids=house.context.ids,
        )
    return made.code


def csr(key: Any, *, name: str = "whoever") -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM).decode()


def post(house: House, body: bytes, path: str = "/enrol") -> tuple[int, dict[str, Any]]:
    context = ssl.create_default_context(cafile=str(house.pki.authority.certificate))
    port = house.context.settings.enrol_port
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def ask(house: House, code: str, key: Any = None, **fields: Any) -> tuple[int, dict[str, Any]]:
    key = key or ec.generate_private_key(ec.SECP256R1())
    return post(house, json.dumps({"code": code, "csr_pem": csr(key), **fields}).encode())


def test_the_agents_own_client_enrols(open_house: House, tmp_path: Path):
    identity = Identity(tmp_path / "identity")
    enrolled = agent_enrol.enrol(
        identity,
        url=open_house.installation.endpoints.enrol,
        code=claim(open_house, "cam-1"),
        ca_sha256=open_house.installation.endpoints.ca_sha256,
        hardware_class="cpu-x86-64",
    )
    assert (enrolled.device, enrolled.tenant) == ("cam-1", "default")
    assert enrolled.broker.port == open_house.listeners.mqtt_port
    with open_house.context.read() as session:
        row = Devices(session).get("cam-1")
        assert row.labels == {"site": "hall"}
        assert row.hardware_class == "cpu-x86-64"
        assert chain.verify(Audit(session).all()).intact


def test_the_answer_is_all_that_a_device_needs(open_house: House, connect: Connect):
    key = ec.generate_private_key(ec.SECP256R1())
    status, answer = ask(open_house, claim(open_house, "cam-1"), key)
    assert status == 200
    raw = {
        n: base64.b64decode(answer[n]) for n in ("image_root", "director_root", "director_targets")
    }
    store = trust.initial(raw["image_root"], raw["director_root"], now=answer["now"])
    running = open_house.start_gateway()
    try:
        identity = open_house.identity_from("cam-1", key, answer["certificate_pem"].encode())
        device = Device(open_house, identity, connect)
        device.birth()
        desired: Desired = eventually(device.desired, "the desired state")[0]
        accepted = trust.accept(
            store,
            image=desired.image,
            director=desired.director,
            device="cam-1",
            tenant="default",
            now=desired.now,
        )
        assert accepted.counter == 1
        assert list(accepted.message_keys) == [open_house.message_key_id()]
        assert desired.director["targets.json"] == raw["director_targets"]
    finally:
        open_house.loop.run(running.stop())


def test_a_code_admits_one_key_once(open_house: House):
    code = claim(open_house, "cam-1")
    key = ec.generate_private_key(ec.SECP256R1())
    first = ask(open_house, code, key)
    again = ask(open_house, code, key)
    other = ask(open_house, code)
    assert first[0] == 200
    assert again[1]["certificate_pem"] == first[1]["certificate_pem"]
    assert (other[0], other[1]["error"]["code"]) == (403, "cloud.enrolment")


def test_the_claim_names_the_device_whatever_the_request_says(open_house: House):
    key = ec.generate_private_key(ec.SECP256R1())
    body = {"code": claim(open_house, "cam-1"), "csr_pem": csr(key, name="cam-2")}
    _, answer = post(open_house, json.dumps(body).encode())
    certificate = x509.load_pem_x509_certificate(answer["certificate_pem"].encode())
    assert certificate.subject.rfc4514_string() == "OU=device,O=default,CN=cam-1"
    assert answer["device"] == "cam-1"


def test_unknown_and_expired_codes_are_refused_alike(
    open_house: House, monkeypatch: pytest.MonkeyPatch
):
    unknown = ask(open_house, "0" * 32)
    code = claim(open_house, "cam-1", expires_s=10.0)
    clock = open_house.context.clock
    object.__setattr__(open_house.context, "clock", lambda: clock() + 11.0)
    expired = ask(open_house, code)
    assert unknown == expired
    assert unknown[0] == 403


def test_requests_that_prove_no_usable_key_are_refused_and_leave_the_claim(open_house: House):
    code = claim(open_house, "cam-1")
    rsa_key = rsa.generate_private_key(65537, 2048)
    wrong_curve = ec.generate_private_key(ec.SECP384R1())
    good = csr(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(good.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    forged = ssl.DER_cert_to_PEM_cert(bytes(der)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    for bad in (csr(rsa_key), csr(wrong_curve), forged, "", "-----BEGIN", "x" * 20_000):
        body = json.dumps({"code": code, "csr_pem": bad}).encode()
        status, answer = post(open_house, body)
        assert (status, answer["error"]["code"]) == (403, "cloud.enrolment"), bad[:40]
    assert ask(open_house, code)[0] == 200


def test_junk_is_refused_politely(open_house: House):
    for body in (b"", b"[]", b"{", b"\xff" * 10, b'{"code": 1}', b"[" * 30_000, b"x" * 50_000):
        status, answer = post(open_house, body)
        assert (status, answer["error"]["code"]) == (400, "cloud.input"), body[:10]


def test_who_asks_too_often_has_to_wait(open_house: House):
    with ThreadPoolExecutor(8) as crowd:  # faster together than the refill, also on a busy machine
        tries = [crowd.submit(post, open_house, b"{}") for _ in range(4 * int(enrol_server.BURST))]
    statuses = [one.result()[0] for one in tries]
    assert set(statuses) == {400, 429}
    assert statuses.count(400) >= enrol_server.BURST


def test_the_agent_stops_at_a_ca_with_another_fingerprint(open_house: House, tmp_path: Path):
    code = claim(open_house, "cam-1")
    with pytest.raises(EnrolmentError, match="SHA-256"):
        agent_enrol.enrol(
            Identity(tmp_path / "identity"),
            url=open_house.installation.endpoints.enrol,
            code=code,
            ca_sha256="0" * 64,
            hardware_class="cpu-x86-64",
        )
    assert ask(open_house, code)[0] == 200


def test_enrolling_anew_shuts_the_old_key_out(open_house: House, connect: Connect):
    old_key = ec.generate_private_key(ec.SECP256R1())
    _, old = ask(open_house, claim(open_house, "cam-1"), old_key)
    held = open_house.identity_from("old", old_key, old["certificate_pem"].encode())
    peer = connect(held, client_id="cam-1")
    eventually(lambda: peer.connected, "the old key connects")
    new_key = ec.generate_private_key(ec.SECP256R1())
    _, new = ask(open_house, claim(open_house, "cam-1"), new_key)
    eventually(lambda: any("Not authorized" in c for c in peer.connects), "cut, then refused")
    fresh = open_house.identity_from("new", new_key, new["certificate_pem"].encode())
    again = connect(fresh, client_id="cam-1")
    eventually(lambda: again.connected, "the new key connects")


def test_a_revoked_device_needs_a_new_claim(open_house: House):
    first, unused = claim(open_house, "cam-1"), claim(open_house, "cam-1")
    assert ask(open_house, first)[0] == 200
    with open_house.context.unit() as unit:
        enrolment.revoke(unit, "cam-1", actor="test")
    assert ask(open_house, unused)[0] == 403
    assert ask(open_house, claim(open_house, "cam-1"))[0] == 200
    with open_house.context.read() as session:
        actions = [entry.action for entry in Audit(session).all()]
        assert actions.count("device.enrol") == 2
        assert "device.revoke" in actions
        assert Devices(session).get("cam-1").revoked_at is None


def wanted(key: ec.EllipticCurvePrivateKey, device: str, *, by: Any = None, **fields: Any) -> bytes:
    """A request for a certificate, sealed."""
    message = CertificateWanted(**{"csr_pem": csr(key), "nonce": "n1"} | fields)
    sealed = envelope.seal(
        "req", device, codec.to_json(message), envelope.signer(by or key), counter=0
    )
    return envelope.to_bytes(sealed)


def test_a_certificate_is_renewed_by_the_key_that_has_one_and_by_no_other(open_house: House):
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    assert ask(open_house, claim(open_house, "cam-1"), key)[0] == 200
    assert ask(open_house, claim(open_house, "cam-2"), other)[0] == 200
    status, answer = post(open_house, wanted(key, "cam-1"), "/renew")
    assert (status, set(answer)) == (200, {"desired", "identity"})
    attacks = {
        "another device's key": wanted(other, "cam-1"),
        "another key's request": wanted(other, "cam-1", by=key),
        "an unknown device": wanted(key, "cam-3"),
        "a foreign name": wanted(key, "../cam-1"),
    }
    for attack, body in attacks.items():
        status, answer = post(open_house, body, "/renew")
        assert status in {400, 403}, attack
    for junk in (b"", b"{}", b"\xff" * 100, b"x" * 50_000):
        assert post(open_house, junk, "/renew")[0] == 400
    with open_house.context.unit() as unit:
        enrolment.revoke(unit, "cam-1", actor="test")
    assert post(open_house, wanted(key, "cam-1"), "/renew")[0] == 403


def test_a_reimaged_device_enrols_anew_and_its_old_key_renews_nothing(open_house: House):
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    assert ask(open_house, claim(open_house, "cam-1"), old)[0] == 200
    assert ask(open_house, claim(open_house, "cam-1"), new)[0] == 200
    assert post(open_house, wanted(old, "cam-1"), "/renew")[0] == 403
    assert post(open_house, wanted(new, "cam-1"), "/renew")[0] == 200
