"""The data directory's certificates: made once, renewed in time, read by whoever needs them.

Rules:
- The CA is made once and never replaced here: every enrolled device pins it.
- The certificates of the broker, the enrolment server and the cloud's MQTT client are derived: they are
  made anew when missing, when they end within `RENEW_BEFORE_S`, or when the hosts changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from cloud.auth import ca
from cloud.auth.ca import Authority, Issued, Subject
from cloud.errors import DataDirError
from ota.signing import secret_files

RENEW_BEFORE_S = 30 * 86400.0
GATEWAY = Subject("cloud", "cloud")


@dataclass(frozen=True)
class Pair:
    """A certificate file and its key file."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Pki:
    """Where the certificates of an installation are: everything below its ``ca`` folder."""

    folder: Path

    @property
    def authority(self) -> Pair:
        """The CA."""
        return self._pair("ca")

    @property
    def server(self) -> Pair:
        """What the broker and the enrolment server show."""
        return self._pair("server")

    @property
    def gateway(self) -> Pair:
        """What the cloud shows to the broker."""
        return self._pair("gateway")

    def load_authority(self) -> Authority:
        """Read the CA.

        Raises:
            DataDirError: its files are missing or damaged.
        """
        pair = self.authority
        try:
            return ca.load(pair.key.read_bytes(), pair.certificate.read_bytes())
        except (OSError, ValueError) as error:
            raise DataDirError(
                f"{self.folder}: expected the fleet's CA (ca.key, ca.pem), found {error!r}; "
                "restore both files from a backup",
            ) from None

    def prepare(self, hosts: Sequence[str], *, now: float) -> Authority:
        """Make what is missing or due; returns the CA.

        Raises:
            DataDirError: the CA's files are damaged.
        """
        pair = self.authority
        if not pair.key.exists() and not pair.certificate.exists():
            secret_files.write(pair.key, ca.private_pem(ca.new_key()))
        if not pair.certificate.exists():
            self._certify(pair, now)
        authority = self.load_authority()
        if self._due(self.server, hosts, now):
            issued = ca.issue_server(authority, hosts, now=now)
            _store(self.server, issued, chain=authority.pem())
        if self._due(self.gateway, (), now):
            days = ca.SERVER_DAYS
            _store(self.gateway, ca.issue_client(authority, GATEWAY, now=now, days=days))
        return authority

    def _certify(self, pair: Pair, now: float) -> None:
        """Make the CA's certificate over its key; what that key signed before stays valid."""
        try:
            made = ca.create(now=now, key=ca.load_key(pair.key.read_bytes()))
        except (OSError, ValueError) as error:
            raise DataDirError(
                f"{pair.key}: expected the CA's key, found {error!r}; restore it from a backup"
            ) from None
        secret_files.write(pair.certificate, made.pem())

    def _pair(self, name: str) -> Pair:
        return Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")

    def _due(self, pair: Pair, hosts: Sequence[str], now: float) -> bool:
        if not pair.certificate.exists() or not pair.key.exists():
            return True
        try:
            held = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        except ValueError:
            return True
        ends = held.not_valid_after_utc.timestamp()
        return ends - now < RENEW_BEFORE_S or _hosts_of(held) != sorted(set(hosts))


def _store(pair: Pair, issued: Issued, *, chain: bytes = b"") -> None:
    pair.certificate.unlink(missing_ok=True)  # never a certificate beside another one's key
    secret_files.write(pair.key, issued.key_pem)
    secret_files.write(pair.certificate, issued.certificate_pem + chain)


def _hosts_of(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return sorted({str(name.value) for name in names})
