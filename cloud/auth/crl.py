"""Certificate revocation lists, for brokers that do not ask the cloud about each connection.

Rule: one list per accepted authority, each with every serial; a serial is random and tells no issuer. Pure.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from cloud.auth.ca import CA_DAYS, Authority


def write(authority: Authority, revoked: Mapping[str, float], *, now: float) -> bytes:
    """A list in PEM.

    Args:
        authority: who signs it.
        revoked: when each certificate was revoked, by serial (lower-case hex).
        now: the time, seconds since the epoch. It is valid as long as an authority: whoever reads it reads it
            from a disk, and a list that ends would lock a whole fleet out.
    """
    at = dt.datetime.fromtimestamp(int(now), tz=dt.timezone.utc)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(at - dt.timedelta(days=1))
        .next_update(at + dt.timedelta(days=CA_DAYS))
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .add_extension(x509.CRLNumber(int(now)), critical=False)
    )
    for serial, when in sorted(revoked.items()):
        entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
        moment = dt.datetime.fromtimestamp(int(when), tz=dt.timezone.utc)
        builder = builder.add_revoked_certificate(entry.revocation_date(moment).build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
