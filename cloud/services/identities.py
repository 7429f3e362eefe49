"""Renewing devices' certificates: the same for a request over MQTT and for one over HTTPS.

Rules:
- The caller has opened the request's envelope: the key that signed it is the device's.
- The answer is signed by a message key of the director, bears the request's nonce and the cloud's time.
"""

from __future__ import annotations

from cloud.auth.pki import Pki
from cloud.context import Context
from cloud.services import enrolment, trust
from cloud.services.enrolment import Issuer
from cloud.settings import Settings
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
