"""The data directory's certificates: made once, renewed in time, read by whoever needs them.

Rules:
- The CA is made once; `cloud.auth.rollover` alone replaces it. ``previous.pem`` holds the one before while it is
  still accepted, ``bundle.pem`` all that are, ``vouched.pem`` the way from each earlier one to the next.
- The certificates of the broker, the enrolment server and the cloud's MQTT client are derived: they are
  made anew when missing, when they end within `RENEW_BEFORE_S`, or when the CA or the hosts changed.
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
GATEWAY = Subject("cloud:gateway", "cloud")
"""Its name is no device's: that may hold no colon."""


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

    @property
    def next(self) -> Pair:
        """The CA that a rollover prepares."""
        return self._pair("next")

    @property
    def previous(self) -> Pair:
        """The CA before, whose certificates are still accepted; its key signs revocations alone."""
        return self._pair("previous")

    @property
    def vouched(self) -> Path:
        """Each later CA's key under the signature of the one before, newest first; servers show them."""
        return self.folder / "vouched.pem"

    @property
    def bundle(self) -> Path:
        """Every CA that is accepted, the present one first."""
        return self.folder / "bundle.pem"

    def authorities(self) -> bytes:
        """Every CA that is accepted, as PEM; what devices are told to trust.

        Raises:
            DataDirError: the CA is missing.
        """
        try:
            return self.bundle.read_bytes()
        except FileNotFoundError:
            return self.load_authority().pem()

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

    def accepted(self) -> list[Authority]:
        """Every CA that is accepted, the present one first.

        Raises:
            DataDirError: a file is missing or damaged.
        """
        found = [self.load_authority()]
        if self.previous.certificate.exists():
            pair = self.previous
            try:
                found.append(ca.load(pair.key.read_bytes(), pair.certificate.read_bytes()))
            except (OSError, ValueError) as error:
                raise DataDirError(
                    f"{self.folder}: expected the earlier CA (previous.key, previous.pem), found {error!r}; "
                    "restore both files from a backup, or retire it"
                ) from None
        return found

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
        if self._due(self.server, authority, hosts, now):
            issued = ca.issue_server(authority, hosts, now=now)
            _store(self.server, issued, chain=self._chain(authority))
        if self._due(self.gateway, authority, (), now):
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

    def _due(self, pair: Pair, authority: Authority, hosts: Sequence[str], now: float) -> bool:
        if not pair.certificate.exists() or not pair.key.exists():
            return True
        try:
            held = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        except ValueError:
            return True
        ends = held.not_valid_after_utc.timestamp()
        other = not ca.issued_by(held, authority.certificate)
        renamed = pair == self.gateway and ca.subject_of(held) != GATEWAY
        return (
            other or renamed or ends - now < RENEW_BEFORE_S or _hosts_of(held) != sorted(set(hosts))
        )

    def _chain(self, authority: Authority) -> bytes:
        """What a server shows behind its own certificate: the way from the CA that a device may have pinned."""
        return self.vouched.read_bytes() if self.vouched.exists() else authority.pem()


def _store(pair: Pair, issued: Issued, *, chain: bytes = b"") -> None:
    pair.certificate.unlink(missing_ok=True)  # never a certificate beside another one's key
    secret_files.write(pair.key, issued.key_pem)
    secret_files.write(pair.certificate, issued.certificate_pem + chain)


def certificates_in(path: Path) -> list[x509.Certificate]:
    """The certificates in a PEM file; none when it is not there.

    Raises:
        DataDirError: it is damaged.
    """
    if not path.exists():
        return []
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise DataDirError(
            f"{path}: expected certificates, found {error}; restore it from a backup"
        ) from None


def _hosts_of(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return sorted({str(name.value) for name in names})
