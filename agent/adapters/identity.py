"""Who the device is: its key, its certificate, and what it was enrolled with.

Rules:
- The private key is made here, is readable by its owner only, and never leaves.
- All the rest is one file, ``enrolment.json``, replaced whole: cut short at any moment, an enrolment or a renewal
  leaves the identity of before or the new one. A renewal keeps the key.
- A certificate is taken only when it is for this device's key and name, and issued by a CA that comes with it.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.adapters import disk, tls
from agent.core.records import Certificate
from agent.errors import DiskError, EnrolmentError
from fleet.wire import envelope
from fleet.wire.envelope import Signer


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is."""

    host: str
    port: int


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud answered when the device was enrolled, and its newest certificate.

    Attributes:
        now: the cloud's time at the enrolment; trusted time never goes below it.
        ca_sha256: fingerprint of the CA that was pinned.
        certificate_pem, authorities_pem: the newest certificate, and the CAs to trust.
        issued: the cloud's time when that certificate was issued.
    """

    device: str
    tenant: str
    hardware_class: str
    broker: Broker
    image_root: bytes
    director_root: bytes
    now: float
    url: str
    ca_sha256: str
    certificate_pem: str = ""
    authorities_pem: str = ""
    issued: float = 0.0


class Identity:
    """The ``identity`` folder of a state directory."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "identity"
        self.key = self.folder / "key.pem"
        self._enrolment = self.folder / "enrolment.json"
        self._held: Enrolment | None = None

    # --- the key ---------------------------------------------------------------------------------

    def make_key(self) -> ec.EllipticCurvePrivateKey:
        """The device's key; made when there is none."""
        disk.make_dir(self.folder)
        if disk.read(self.key) is None:
            key = ec.generate_private_key(ec.SECP256R1())
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            disk.write_atomic(self.key, pem)
        return self.load_key()

    def load_key(self) -> ec.EllipticCurvePrivateKey:
        """The device's key.

        Raises:
            EnrolmentError: there is none, or it cannot be read.
        """
        try:
            key = serialization.load_pem_private_key(disk.read(self.key) or b"", password=None)
        except ValueError as error:
            raise EnrolmentError(
                f"{self.key}: expected a private key, found {error}; enrol the device again"
            ) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise EnrolmentError(f"{self.key}: expected an EC key; enrol the device again")
        return key

    def public_pem(self) -> bytes:
        """The device's public key in PEM."""
        return (
            self.load_key()
            .public_key()
            .public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def signer(self) -> Signer:
        """Signs with the device's key."""
        return envelope.signer(self.load_key())

    def request(self) -> str:
        """A certificate request (PEM) that proves the key; the cloud chooses the name."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        made = builder.sign(self.load_key(), hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()

    # --- the enrolment ---------------------------------------------------------------------------

    def save(self, enrolment: Enrolment) -> None:
        """Persist an enrolment. Raises DiskError."""
        disk.write_atomic(self._enrolment, msgspec.json.format(msgspec.json.encode(enrolment)))
        self._held = enrolment

    def load(self) -> Enrolment:
        """The enrolment.

        Raises:
            EnrolmentError: there is none, or it is damaged.
        """
        data = disk.read(self._enrolment)
        if data is None:
            raise EnrolmentError(
                f"{self.folder}: this device is not enrolled; get a code with `outrider device claim` "
                "and run `outrider-agent enroll`"
            )
        try:
            found = msgspec.json.decode(data, type=Enrolment)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EnrolmentError(f"{self._enrolment}: {error}; enrol the device again") from None
        if not found.certificate_pem:
            found = self._with_files_of_before(found)
        self._held = found
        return found

    def _with_files_of_before(self, found: Enrolment) -> Enrolment:
        """Agents of before kept certificate and CA in files beside."""
        return msgspec.structs.replace(
            found,
            certificate_pem=(disk.read(self.folder / "cert.pem") or b"").decode(),
            authorities_pem=(disk.read(self.folder / "ca.pem") or b"").decode(),
            issued=found.now,
        )

    @property
    def url(self) -> str:
        """Where the cloud enrols and renews."""
        return (self._held or self.load()).url

    # --- the certificate -------------------------------------------------------------------------

    def certificate(self) -> Certificate:
        """The certificate that is held, as the core needs to know it.

        Raises:
            EnrolmentError: it is damaged.
        """
        held = self._held or self.load()
        try:
            found = x509.load_pem_x509_certificate(held.certificate_pem.encode())
        except ValueError as error:
            raise EnrolmentError(
                f"{self._enrolment}: expected a certificate, found {error}; enrol the device again"
            ) from None
        return Certificate(
            issued=held.issued,
            expires=found.not_valid_after_utc.timestamp(),
            authorities_sha256=hashlib.sha256(held.authorities_pem.encode()).hexdigest(),
            request_pem=self.request(),
        )

    def take(self, *, certificate_pem: str, authorities_pem: str, issued: float) -> str:
        """Use another certificate from now on; returns why it could not be persisted, empty when it was.

        Raises:
            EnrolmentError: it is not for this device, or none of those CAs issued it.
        """
        held = self._held or self.load()
        check(
            certificate_pem,
            authorities_pem,
            key=self.load_key().public_key(),
            device=held.device,
            tenant=held.tenant,
        )
        taken = msgspec.structs.replace(
            held, certificate_pem=certificate_pem, authorities_pem=authorities_pem, issued=issued
        )
        self._held = taken
        try:
            self.save(taken)
        except DiskError as error:
            return str(error)
        return ""

    def tls(
        self, trusted_now: Callable[[], float], *, with_certificate: bool = True
    ) -> ssl.SSLContext:
        """TLS as this device: over MQTT with its certificate, over HTTPS without.

        Raises:
            EnrolmentError: a file is missing or damaged.
        """
        held = self._held or self.load()
        if not with_certificate:
            return tls.context(held.authorities_pem, trusted_now)
        return tls.context(
            held.authorities_pem,
            trusted_now,
            certificate_pem=held.certificate_pem,
            key=self.key,
        )


def check(
    certificate_pem: str,
    authorities_pem: str,
    *,
    key: ec.EllipticCurvePublicKey,
    device: str,
    tenant: str,
) -> None:
    """See that a certificate is one that this device can live with.

    Raises:
        EnrolmentError: it is for another key or name, or none of those CAs issued it.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        authorities = x509.load_pem_x509_certificates(authorities_pem.encode())
    except ValueError as error:
        raise EnrolmentError(f"expected a certificate and CAs, found {error}") from None
    if not any(_issued(certificate, authority) for authority in authorities):
        raise EnrolmentError(
            "expected a certificate that one of the fleet's CAs issued; found another"
        )
    if certificate.public_key() != key:
        raise EnrolmentError("the certificate is for another key than this device's; claim again")
    named = (
        _named(certificate, NameOID.COMMON_NAME),
        _named(certificate, NameOID.ORGANIZATION_NAME),
    )
    if named != (device, tenant):
        raise EnrolmentError(
            f"expected a certificate for {device!r} of {tenant!r}, found one for {named[0]!r} of {named[1]!r}"
        )


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _named(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    values = certificate.subject.get_attributes_for_oid(oid)
    return str(values[0].value) if len(values) == 1 else ""
