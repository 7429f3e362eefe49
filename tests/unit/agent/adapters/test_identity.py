"""The identity on the disk: whatever is cut short, what is there can be used."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.adapters import disk
from agent.adapters.identity import Broker, Enrolment, Identity
from agent.errors import EnrolmentError

pytestmark = pytest.mark.agent
START = dt.datetime(2027, 1, 1, tzinfo=dt.timezone.utc)


class PowerCutError(BaseException):
    """The device lost its power."""


class Authority:
    """A CA of the test's own."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CA")])
        self.pem = _pem(self._sign(self.name, self.key.public_key(), 3650))

    def issue(self, key: ec.EllipticCurvePublicKey, device: str = "d1", *, days: int = 30) -> str:
        named = [(NameOID.COMMON_NAME, device), (NameOID.ORGANIZATION_NAME, "t1")]
        subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in named])
        return _pem(self._sign(subject, key, days))

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(START)
            .not_valid_after(START + dt.timedelta(days=days))
        )
        return builder.sign(self.key, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def enrolment(authority: Authority, key: ec.EllipticCurvePublicKey) -> Enrolment:
    return Enrolment(
        device="d1",
        tenant="t1",
        hardware_class="cpu",
        broker=Broker(host="h", port=1),
        image_root=b"",
        director_root=b"",
        now=START.timestamp(),
        url="https://h",
        ca_sha256="",
        certificate_pem=authority.issue(key),
        authorities_pem=authority.pem,
        issued=START.timestamp(),
    )


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def identity(tmp_path: Path, authority: Authority) -> Identity:
    """An enrolled device."""
    made = Identity(tmp_path)
    made.save(enrolment(authority, made.make_key().public_key()))
    return made


@contextmanager
def cut_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[list[int]]:
    """The power goes away after so many calls of the system that change the disk; half of a write is done."""
    done = [0]

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if done[0] >= steps:
                if name == "write":
                    descriptor, data = arguments
                    real(descriptor, bytes(data)[: len(data) // 2])  # type: ignore[arg-type,call-overload]
                raise PowerCutError
            done[0] += 1
            return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "write", "fsync"):
            patch.setattr(disk.os, name, counted(name, getattr(os, name)))
        patch.setattr(disk.Path, "replace", counted("replace", Path.replace))
        yield done


def usable(folder: Path) -> str:
    """What a daemon that starts now would show; it must fit the key."""
    found = Identity(folder)
    found.tls(lambda: 0.0)
    found.signer().sign(b"x")
    return found.load().certificate_pem


def test_a_renewal_that_is_cut_short_leaves_an_identity(
    identity: Identity, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = set()
    for steps in range(50):
        before = identity.load().certificate_pem
        new = authority.issue(identity.load_key().public_key(), days=60 + steps)
        try:
            with cut_after(monkeypatch, steps):
                identity.take(
                    certificate_pem=new, authorities_pem=authority.pem, issued=START.timestamp()
                )
        except PowerCutError:
            held = usable(tmp_path)
            assert held in {before, new}
            seen.add(held == new)
            identity = Identity(tmp_path)
        else:
            assert usable(tmp_path) == new
            break
    else:
        pytest.fail("it never ended")
    assert seen == {True, False}, "it was cut on both sides of the commit"


def test_an_enrolment_that_is_cut_short_is_done_again_with_the_same_key(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for steps in range(50):
        folder = tmp_path / str(steps)
        made = Identity(folder)
        try:
            with cut_after(monkeypatch, steps):
                key = made.make_key()
                made.save(enrolment(authority, key.public_key()))
        except PowerCutError:
            again = Identity(folder)
            there = again.key.exists() and again.load_key().public_key()
            key = again.make_key()
            assert not there or key.public_key() == there
            again.save(enrolment(authority, key.public_key()))
            usable(folder)
        else:
            assert steps > 5
            return
    pytest.fail("it never ended")


def test_a_full_disk_keeps_no_new_certificate_from_being_used(
    identity: Identity, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    old = identity.load().certificate_pem
    new = authority.issue(identity.load_key().public_key(), days=90)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk.os, "write", full)
        problem = identity.take(certificate_pem=new, authorities_pem=authority.pem, issued=1.0)
    assert "No space left" in problem
    assert identity.certificate().expires == (START + dt.timedelta(days=90)).timestamp()
    identity.tls(lambda: 0.0)
    assert usable(tmp_path) == old


def test_what_is_not_this_devices_is_not_taken(identity: Identity, authority: Authority):
    mine, other = identity.load_key().public_key(), ec.generate_private_key(ec.SECP256R1())
    held = identity.load()
    wrong = {
        "another key": (authority.issue(other.public_key()), authority.pem),
        "one for 'd2'": (authority.issue(mine, "d2"), authority.pem),
        "one of the fleet's CAs": (Authority().issue(mine), authority.pem),
        "certificate and CAs": ("junk", authority.pem),
        "a certificate and CAs": (authority.issue(mine), "junk"),
    }
    for words, (certificate, authorities) in wrong.items():
        with pytest.raises(EnrolmentError, match=words):
            identity.take(certificate_pem=certificate, authorities_pem=authorities, issued=1.0)
    assert identity.load() == held


def test_an_enrolment_of_an_agent_of_before_is_read(
    identity: Identity, authority: Authority, tmp_path: Path
):
    held = identity.load()
    (identity.folder / "cert.pem").write_text(held.certificate_pem)
    (identity.folder / "ca.pem").write_text(held.authorities_pem)
    old = msgspec.structs.replace(held, certificate_pem="", authorities_pem="", issued=0.0)
    identity.save(old)
    assert Identity(tmp_path).load() == held
    assert usable(tmp_path) == held.certificate_pem


def test_the_key_is_the_owners_alone(identity: Identity):
    assert identity.key.stat().st_mode & 0o077 == 0
