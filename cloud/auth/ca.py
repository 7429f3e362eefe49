"""The fleet's certificate authority: EC P-256 certificates for broker, cloud, workers and devices.

Rules:
- A device's certificate names it: CN is the device id, O the tenant, OU ``device``. The names come from
  the claim, never from the certificate request; of the request only the public key counts.
- A worker's certificate names it: CN is ``worker:`` and its name, OU ``worker``. It lasts for an hour or so. The colon
  keeps it from ever bearing a device's CN, because some brokers look at nothing else.
- A request must be signed by its own key (proof of possession) and that key must be EC P-256, because
  the same key signs the device's messages.
- Validity starts a day early, for devices whose clock is a little behind.
- Pure: time comes in as `now`, seconds since the epoch; files are read and written elsewhere.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.errors import EnrolmentError

CA_DAYS = 3650
SERVER_DAYS = 397
WORKER_PREFIX = "worker:"
_BACKDATED = dt.timedelta(days=1)
_MAX_CSR_BYTES = 8192


@dataclass(frozen=True)
class Authority:
    """A CA's key and certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """The private key as PEM, not encrypted: keep the file 0600."""
        return private_pem(self.key)

    def sha256(self) -> str:
        """Fingerprint of the certificate's DER, lower-case hex: what an enrolling device pins."""
        return hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


@dataclass(frozen=True)
class Subject:
    """Who a certificate is for: CN, OU and, for devices, the tenant as O."""

    name: str
    unit: str
    tenant: str = ""


def worker_of(subject: Subject) -> str:
    """The name of the worker that a certificate is for."""
    return subject.name.removeprefix(WORKER_PREFIX)


def device_subject(device: str, tenant: str) -> Subject:
    """What a device's certificate says of it."""
    return Subject(device, "device", tenant)


@dataclass(frozen=True)
class Issued:
    """A certificate just made, with its own key where we made that too."""

    certificate_pem: bytes
    serial: str
    not_before: float
    not_after: float
    key_pem: bytes = b""


def new_key() -> ec.EllipticCurvePrivateKey:
    """An EC P-256 private key."""
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def create(*, now: float, key: ec.EllipticCurvePrivateKey | None = None) -> Authority:
    """A new self-signed authority, over a new key or one that there is already."""
    key = key or new_key()
    name = _name(Subject("Outrider fleet CA", "ca"))
    builder = (
        _builder(name, name, key.public_key(), now=now, lifetime=dt.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(_authority_key_id(key.public_key()), critical=False)
    )
    return Authority(key, builder.sign(key, hashes.SHA256()))


def vouch(old: Authority, new: Authority, *, now: float) -> bytes:
    """The new authority's key under the old one's signature, as PEM: who trusts the old one follows it.

    Both have the same name, so the certificate counts as self-issued and does not lengthen a path
    (RFC 4210, section 4.4: "NewWithOld"; RFC 5280, section 6.1.4).
    """
    name = old.certificate.subject
    lifetime = dt.timedelta(days=CA_DAYS)
    builder = (
        _builder(name, name, new.key.public_key(), now=now, lifetime=lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(_authority_key_id(old.key.public_key()), critical=False)
    )
    return builder.sign(old.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether `authority` signed `certificate`; dates are not judged."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def load(key_pem: bytes, certificate_pem: bytes) -> Authority:
    """The authority kept in two PEM files.

    Raises:
        ValueError: they are no EC key and certificate.
    """
    return Authority(load_key(key_pem), x509.load_pem_x509_certificate(certificate_pem))


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """An EC private key kept in a PEM file.

    Raises:
        ValueError: it is none.
    """
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"expected an EC key, found {type(key).__name__}")  # noqa: TRY004  the file's content is wrong, not the caller's type
    return key


def issue_server(authority: Authority, hosts: Sequence[str], *, now: float) -> Issued:
    """A key and certificate for a TLS server that is reached under `hosts` (names or addresses)."""
    key = new_key()
    lifetime = dt.timedelta(days=SERVER_DAYS)
    builder = _leaf(authority, Subject(hosts[0], "server"), key.public_key(), now, lifetime)
    names = x509.SubjectAlternativeName([_general_name(host) for host in dict.fromkeys(hosts)])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    builder = builder.add_extension(names, critical=False).add_extension(usage, critical=False)
    return _signed(authority, builder, private_pem(key))


def issue_client(authority: Authority, subject: Subject, *, now: float, days: int) -> Issued:
    """A key and client certificate for one of the cloud's own parts."""
    key = new_key()
    builder = _leaf(authority, subject, key.public_key(), now, dt.timedelta(days=days))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return _signed(authority, builder.add_extension(usage, critical=False), private_pem(key))


def parse_csr(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request whose sender holds the private key.

    Raises:
        EnrolmentError: not a request, a wrong signature, or a key that is not EC P-256.
    """
    if len(csr_pem) > _MAX_CSR_BYTES:
        raise EnrolmentError(
            f"expected a certificate request of at most {_MAX_CSR_BYTES} bytes, found {len(csr_pem)}"
        )
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
        key = csr.public_key()
        proven = csr.is_signature_valid
    except Exception as error:  # noqa: BLE001  the parser raises several kinds, and each means: not a usable request
        raise EnrolmentError(
            f"expected a PEM certificate request (PKCS #10), found {error}; make a new one"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise EnrolmentError("expected a certificate request for an EC P-256 key; make such a key")
    if not proven:
        raise EnrolmentError(
            "the certificate request is not signed by its own key; make a new request"
        )
    return key


def issue_device(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    subject: Subject,
    *,
    now: float,
    lifetime_s: float,
) -> Issued:
    """A short-lived client certificate that names a device, see `device_subject`."""
    builder = _leaf(authority, subject, key, now, dt.timedelta(seconds=lifetime_s))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return _signed(authority, builder.add_extension(usage, critical=False))


def issue_worker(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    *,
    worker: str,
    now: float,
    lifetime_s: float,
) -> Issued:
    """A short-lived client certificate that names a worker."""
    lifetime = dt.timedelta(seconds=lifetime_s)
    builder = _leaf(authority, Subject(WORKER_PREFIX + worker, "worker"), key, now, lifetime)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    return _signed(authority, builder.add_extension(usage, critical=False))


def subject_of(certificate: x509.Certificate) -> Subject:
    """Who a certificate is for; empty strings for what it does not name."""

    def first(oid: x509.ObjectIdentifier) -> str:
        values = certificate.subject.get_attributes_for_oid(oid)
        return str(values[0].value) if len(values) == 1 else ""

    return Subject(
        first(NameOID.COMMON_NAME),
        first(NameOID.ORGANIZATIONAL_UNIT_NAME),
        first(NameOID.ORGANIZATION_NAME),
    )


def serial_of(certificate: x509.Certificate) -> str:
    """The serial number as lower-case hex."""
    return f"{certificate.serial_number:x}"


def _leaf(
    authority: Authority,
    subject: Subject,
    key: ec.EllipticCurvePublicKey,
    now: float,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    issuer = authority.certificate
    return (
        _builder(_name(subject), issuer.subject, key, now=now, lifetime=lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(_authority_key_id(authority.key.public_key()), critical=False)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    now: float,
    lifetime: dt.timedelta,
) -> x509.CertificateBuilder:
    at = dt.datetime.fromtimestamp(now, tz=dt.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - _BACKDATED)
        .not_valid_after(at + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _signed(authority: Authority, builder: x509.CertificateBuilder, key_pem: bytes = b"") -> Issued:
    made = builder.sign(authority.key, hashes.SHA256())
    return Issued(
        certificate_pem=made.public_bytes(serialization.Encoding.PEM),
        serial=serial_of(made),
        not_before=made.not_valid_before_utc.timestamp(),
        not_after=made.not_valid_after_utc.timestamp(),
        key_pem=key_pem,
    )


def _authority_key_id(key: ec.EllipticCurvePublicKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _name(subject: Subject) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject.name)]
    if subject.tenant:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, subject.tenant))
    attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, subject.unit))
    return x509.Name(attributes)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
