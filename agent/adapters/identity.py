"""Who the device is: its key, its certificate, and what it was enrolled with.

Rules:
- The private key is made here, is readable by its owner only, and never leaves.
- `enrolment.json` is written last: an enrolment that was cut short is none, and is done again with the
  same key.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.adapters import disk
from agent.errors import EnrolmentError
from fleet.wire import envelope
from fleet.wire.envelope import Signer


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is."""

    host: str
    port: int


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud answered when the device was enrolled.

    Attributes:
        now: the cloud's time then; trusted time never goes below it.
        ca_sha256: fingerprint of the CA that was pinned.
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


class Identity:
    """The ``identity`` folder of a state directory."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "identity"
        self.key = self.folder / "key.pem"
        self.certificate = self.folder / "cert.pem"
        self.ca = self.folder / "ca.pem"
        self._enrolment = self.folder / "enrolment.json"

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

    def save(self, enrolment: Enrolment, *, certificate_pem: bytes, ca_pem: bytes) -> None:
        """Persist an enrolment."""
        disk.write_atomic(self.ca, ca_pem)
        disk.write_atomic(self.certificate, certificate_pem)
        disk.write_atomic(self._enrolment, msgspec.json.format(msgspec.json.encode(enrolment)))

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
            return msgspec.json.decode(data, type=Enrolment)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise EnrolmentError(f"{self._enrolment}: {error}; enrol the device again") from None
