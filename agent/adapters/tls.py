"""TLS towards the cloud: the fleet's own CAs alone are trusted, and dates are judged by trusted time.

Rules:
- OpenSSL does not look at dates (``X509_V_FLAG_NO_CHECK_TIME``): a device whose clock shows 1970 or 2099 must
  reach its cloud, and who sets its clock must not decide what it trusts.
- Trusted time is the least that the time can be, so a server's certificate that ended before it is refused,
  and nothing can be said of one that seems to begin later.
- The device's certificate is handed to OpenSSL from memory: a disk that is full or read-only keeps no renewed
  certificate from being used.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from agent.errors import EnrolmentError

_NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME`` of OpenSSL's x509_vfy.h."""


def context(
    authorities_pem: str,
    trusted_now: Callable[[], float],
    *,
    certificate_pem: str = "",
    key: Path | None = None,
) -> ssl.SSLContext:
    """A client's context.

    Args:
        authorities_pem: the CAs that vouch for servers.
        trusted_now: trusted time, seconds since the epoch; called from any thread.
        certificate_pem: what to show; nothing when there is no key.
        key: file of its key.

    Raises:
        EnrolmentError: they are damaged, or do not belong together.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_flags |= _NO_CHECK_TIME
    made.sslsocket_class = _judging(trusted_now)
    try:
        made.load_verify_locations(cadata=authorities_pem)
        if key is not None:
            _load_chain(made, certificate_pem, key)
    except (OSError, ValueError) as error:
        raise EnrolmentError(
            f"{key.parent if key else 'identity'}: expected CAs, a certificate and key.pem that belong "
            f"together, found {error}; enrol the device again"
        ) from None
    return made


def _load_chain(made: ssl.SSLContext, certificate_pem: str, key: Path) -> None:
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, certificate_pem.encode())
        made.load_cert_chain(f"/proc/self/fd/{descriptor}", key)
    finally:
        os.close(descriptor)


def _judging(trusted_now: Callable[[], float]) -> type[ssl.SSLSocket]:
    class Judging(ssl.SSLSocket):
        """Ends the handshake when the server's certificate has ended by trusted time."""

        def do_handshake(self, block: bool = False) -> None:
            """Shake hands, then judge the dates."""
            super().do_handshake(block)
            der = self.getpeercert(binary_form=True)
            if der is not None and self.context.verify_mode is ssl.CERT_REQUIRED:
                ends = x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
                if ends < trusted_now():
                    raise ssl.SSLError(
                        ssl.SSL_ERROR_SSL,
                        f"the server's certificate ended at {ends:.0f} and it is at least {trusted_now():.0f}; "
                        "start the cloud again, so that it renews its own",
                    )

    return Judging
