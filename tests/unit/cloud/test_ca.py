"""Certificates: what they name, how long they hold, and that a real TLS handshake accepts them."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.auth import ca
from cloud.auth.pki import RENEW_BEFORE_S, Pki
from cloud.errors import DataDirError, EnrolmentError

NOW = 1_800_000_000.0
DAY = 86_400.0


def test_a_device_certificate_names_the_device_and_lasts_as_promised():
    authority = ca.create(now=NOW)
    key = ca.new_key()
    subject = ca.device_subject("cam", "shop")
    issued = ca.issue_device(authority, key.public_key(), subject, now=NOW, lifetime_s=30 * DAY)
    made = x509.load_pem_x509_certificate(issued.certificate_pem)
    made.verify_directly_issued_by(authority.certificate)
    assert ca.subject_of(made) == ca.Subject("cam", "device", "shop")
    assert made.public_key() == key.public_key()
    assert issued.serial == f"{made.serial_number:x}"
    assert issued.not_after - NOW == 30 * DAY
    assert NOW - issued.not_before == DAY


def test_an_authority_survives_its_files():
    authority = ca.create(now=NOW)
    again = ca.load(authority.key_pem(), authority.pem())
    assert again.sha256() == authority.sha256()
    ca.issue_server(again, ["localhost"], now=NOW)


def test_a_request_signed_by_another_key_is_refused():
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    good = request.sign(key, hashes.SHA256())
    assert ca.parse_csr(good.public_bytes(serialization.Encoding.PEM)) == key.public_key()
    der = bytearray(good.public_bytes(serialization.Encoding.DER))
    at = der.find(
        key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
    )
    other = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    )
    der[at : at + len(other)] = other
    stolen = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(EnrolmentError, match="not signed by its own key"):
        ca.parse_csr(stolen)


def test_certificates_are_made_once_and_renewed_in_time(tmp_path: Path):
    pki = Pki(tmp_path / "ca")
    first = pki.prepare(["127.0.0.1"], now=NOW)
    files = {p.name: p.read_bytes() for p in pki.folder.iterdir()}
    assert {oct(p.stat().st_mode & 0o777) for p in pki.folder.iterdir()} == {"0o600"}
    pki.prepare(["127.0.0.1"], now=NOW + DAY)
    assert {p.name: p.read_bytes() for p in pki.folder.iterdir()} == files
    later = NOW + ca.SERVER_DAYS * DAY - RENEW_BEFORE_S + DAY
    renewed = pki.prepare(["127.0.0.1"], now=later)
    assert renewed.sha256() == first.sha256()
    held = x509.load_pem_x509_certificate(pki.server.certificate.read_bytes())
    assert held.not_valid_after_utc > dt.datetime.fromtimestamp(later + 300 * DAY, dt.timezone.utc)
    assert pki.gateway.certificate.read_bytes() != files["gateway.pem"]


def test_a_new_host_gets_a_new_server_certificate(tmp_path: Path):
    pki = Pki(tmp_path / "ca")
    pki.prepare(["127.0.0.1"], now=NOW)
    pki.prepare(["127.0.0.1", "fleet.example"], now=NOW)
    held = x509.load_pem_x509_certificate(pki.server.certificate.read_bytes())
    names = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fleet.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


@pytest.mark.parametrize("lost", ["ca.key", "ca.pem", "server.key", "server.pem", "gateway.key"])
def test_a_start_that_was_killed_between_two_files_is_completed(tmp_path: Path, lost: str):
    pki = Pki(tmp_path / "ca")
    pki.prepare(["127.0.0.1"], now=NOW)
    os.unlink(pki.folder / lost)  # noqa: PTH108  named as the system call that a crash undoes
    if lost == "ca.key":
        with pytest.raises(DataDirError, match="restore both files"):
            pki.prepare(["127.0.0.1"], now=NOW)
        return
    authority = pki.prepare(["127.0.0.1"], now=NOW)
    for pair in (pki.server, pki.gateway):
        certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
        assert certificate.public_key() == key.public_key()
        certificate.verify_directly_issued_by(authority.certificate)
