"""Renewing devices' certificates: the same for a request over MQTT and for one over HTTPS.

Rules:
- The caller has opened the request's envelope: the key that signed it is the device's.
- The answer is signed by a message key of the director, bears the request's nonce and the cloud's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from cloud.auth import ca
from cloud.auth.pki import Pki
from cloud.context import Context
from cloud.services import enrolment, trust
from cloud.services.enrolment import Issuer
from cloud.settings import Settings
from fleet.registry.repositories import Devices
from fleet.wire import codec
from fleet.wire.messages import CertificateGiven, CertificateWanted
from fleet.wire.topics import Down


def issuer(settings: Settings) -> Issuer:
    """The CA of an installation, as devices' certificates are issued by it.

    Raises:
        DataDirError: the CA is missing or damaged.
    """
    authority = Pki(settings.path("ca")).load_authority()
    return Issuer(authority, settings.device_certificate_s)


def renew(context: Context, device: str, wanted: CertificateWanted, *, key: bytes) -> bytes:
    """Issue a certificate; returns the sealed `CertificateGiven`.

    Raises:
        EnrolmentError: the certificate request is not usable, or for another key.
        DeniedError: the device was revoked meanwhile.
        DataDirError: the CA is missing or damaged.
    """
    by = issuer(context.settings)
    with context.unit() as unit:
        certificate = enrolment.renew(
            unit, by, device=device, key=key, csr_pem=wanted.csr_pem.encode()
        )
    given = CertificateGiven(
        device=device,
        nonce=wanted.nonce,
        now=context.clock(),
        certificate_pem=certificate.decode(),
        authorities_pem=Pki(context.settings.path("ca")).authorities().decode(),
    )
    return trust.sealed(context, device, Down.IDENTITY, codec.to_json(given))


@dataclass(frozen=True)
class Accepted:
    """An authority whose certificates are accepted, and how many devices' newest one it issued."""

    sha256: str
    until: float
    devices: int


def devices_by_authority(
    context: Context, authorities: Sequence[x509.Certificate]
) -> list[Accepted]:
    """Who of the fleet has a certificate of which authority; revoked devices do not count."""
    with context.read() as session:
        devices = Devices(session)
        newest = [keys[0] for device in devices.all() if (keys := devices.keys(device.id))]
    held = [x509.load_pem_x509_certificate(key.certificate.encode()) for key in newest]
    return [
        Accepted(
            sha256=one.fingerprint(hashes.SHA256()).hex(),
            until=one.not_valid_after_utc.timestamp(),
            devices=sum(ca.issued_by(certificate, one) for certificate in held),
        )
        for one in authorities
    ]
