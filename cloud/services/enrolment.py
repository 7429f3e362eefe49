"""Admission of devices: claims, certificates, revocation.

Rules:
- A claim admits one device once, before it expires. Its code has 128 random bits and only its SHA-256 is
  stored, so that a leaked database admits nobody.
- The claim names the device and its tenant; the request brings a key and nothing else.
- A code is used up in the transaction that stores the certificate: both happen or neither does. Until
  it would have expired, the key that used it gets the same answer again.
- Enrolling a known device anew revokes its earlier keys; a revoked device needs a new claim, made by an
  operator, to come back.
- A device renews its certificate with the key that it has, as long as that key is not revoked; the dates of
  the certificate before do not matter. Asking again soon gives the same certificate again.
- Every step is audited in its own transaction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud.audit import log
from cloud.auth import ca
from cloud.auth.ca import Authority
from cloud.context import Unit
from cloud.errors import DeniedError, EnrolmentError
from fleet.registry.repositories import Devices
from fleet.registry.tables import Claim, Device, DeviceKey
from fleet.wire import envelope, topics

MAX_CLAIM_S = 30 * 86400.0
MIN_CLAIM_S = 10.0
MAX_REPEAT_S = 3600.0
_REPEAT_SHARE = 0.1
_MAX_CODE_LENGTH = 200
_BAD_CODE = (
    "expected a claim code that is unused and has not expired; ask an operator for a new one"
)


@dataclass(frozen=True)
class NewClaim:
    """A claim as its maker sees it, once: the code is not stored."""

    device: str
    code: str
    expires: float


@dataclass(frozen=True)
class Issuer:
    """Who signs devices' certificates, and for how long."""

    authority: Authority
    lifetime_s: float


@dataclass(frozen=True)
class Admitted:
    """A device that was just enrolled."""

    device: str
    tenant: str
    certificate_pem: bytes
    not_after: float


def create_claim(  # noqa: PLR0913  each is a choice of the operator's, given by name
    unit: Unit,
    *,
    device: str,
    tenant: str,
    labels: Mapping[str, str],
    expires_s: float,
    actor: str,
    ids: Callable[[], str],
) -> NewClaim:
    """Make a single-use code that admits `device` within `expires_s` seconds.

    Raises:
        WireError: the device's name is not a legal id.
        EnrolmentError: the time is too short or too long.
    """
    topics.check_id(device, what="device")
    if not MIN_CLAIM_S <= expires_s <= MAX_CLAIM_S:
        raise EnrolmentError(
            f"expected a claim to last {MIN_CLAIM_S:.0f} s to {MAX_CLAIM_S:.0f} s, found {expires_s:g}"
        )
    code = f"{ids()}{ids()}"
    claim = Claim(
        code_sha256=_digest(code),
        tenant=tenant,
        device=device,
        labels=dict(labels),
        created_at=unit.now,
        created_by=actor,
        expires_at=unit.now + expires_s,
    )
    Devices(unit.session).add(claim)
    log.record(unit, actor=actor, action="device.claim", subject=device, expires=claim.expires_at)
    return NewClaim(device, code, claim.expires_at)


def enrol(
    unit: Unit,
    issuer: Issuer,
    *,
    code: str,
    csr_pem: bytes,
    hardware_class: str,
) -> Admitted:
    """Use up a claim and issue the device's certificate.

    Raises:
        EnrolmentError: the code is unknown, used by another key or expired (all answered alike), or the
            certificate request is not usable.
    """
    key = ca.parse_csr(csr_pem)
    claim = Devices(unit.session).claim(_digest(code[:_MAX_CODE_LENGTH]))
    if claim is None or claim.expires_at < unit.now:
        raise EnrolmentError(_BAD_CODE)
    if claim.used_at is not None:
        return _again(unit, claim, key)
    claim.used_at = unit.now
    device = _admit(unit, claim, hardware_class)
    issued = _issue(unit, issuer, key, device)
    log.record(
        unit,
        actor=f"device:{device.id}",
        action="device.enrol",
        subject=device.id,
        serial=issued.serial,
        claimed_by=claim.created_by,
    )
    unit.publish("device", device=device.id)
    unit.publish("revoked", device=device.id)
    return Admitted(device.id, claim.tenant, issued.certificate_pem, issued.not_after)


def renew(unit: Unit, issuer: Issuer, *, device: str, key: bytes, csr_pem: bytes) -> bytes:
    """A new certificate (PEM) for the key that a device has; the caller has seen that key's signature.

    Args:
        unit: the transaction.
        issuer: the CA, and how long certificates last.
        device: who asks.
        key: the key that signed the request (DER); the registry holds it, not revoked, for that device.
        csr_pem: the certificate request.

    Raises:
        EnrolmentError: the certificate request is not usable, or for another key.
        DeniedError: the device was revoked meanwhile.
    """
    asked = ca.parse_csr(csr_pem)
    if _der(asked) != key:
        raise EnrolmentError(
            "expected a request for the key that signed it; a device with a new key enrols anew, with a claim"
        )
    row = Devices(unit.session).get_for_update(device)
    held = [one for one in Devices(unit.session).keys(device) if one.public_key == key]
    if row.revoked_at is not None or not held:
        raise DeniedError(f"device {device!r} is revoked; it needs a new claim to come back")
    if _is_fresh(held[0], issuer, unit.now):
        return held[0].certificate.encode()
    issued = _issue(unit, issuer, asked, row)
    for one in held:
        if one.not_after < unit.now:
            unit.session.delete(one)  # its key is in the new row
    log.record(
        unit,
        actor=f"device:{device}",
        action="device.renew",
        subject=device,
        serial=issued.serial,
    )
    unit.publish("device", device=device)
    return issued.certificate_pem


def _is_fresh(held: DeviceKey, issuer: Issuer, now: float) -> bool:
    certificate = x509.load_pem_x509_certificate(held.certificate.encode())
    soon = now - held.created_at < min(MAX_REPEAT_S, issuer.lifetime_s * _REPEAT_SHARE)
    return soon and ca.issued_by(certificate, issuer.authority.certificate)


def _issue(unit: Unit, issuer: Issuer, key: ec.EllipticCurvePublicKey, device: Device) -> ca.Issued:
    subject = ca.device_subject(device.id, device.tenant)
    issued = ca.issue_device(
        issuer.authority, key, subject, now=unit.now, lifetime_s=issuer.lifetime_s
    )
    Devices(unit.session).add(_row(issued, key, device.id, unit.now))
    return issued


def revoke(unit: Unit, device_id: str, *, actor: str) -> None:
    """Shut a device out: its keys no longer count, its claims are void, its connection is cut.

    Raises:
        NotFoundError: no such device.
    """
    device = Devices(unit.session).get_for_update(device_id)
    if device.revoked_at is None:
        device.revoked_at = unit.now
        device.online = False
        _revoke_keys(unit, device_id)
        _void_claims(unit, device_id)
        log.record(unit, actor=actor, action="device.revoke", subject=device_id)
    unit.publish("device", device=device_id)
    unit.publish("revoked", device=device_id)


def _again(unit: Unit, claim: Claim, key: ec.EllipticCurvePublicKey) -> Admitted:
    """The same answer for the key that used the claim: the first answer may have been lost."""
    for held in Devices(unit.session).keys(claim.device):
        if held.public_key == _der(key) and held.created_at == claim.used_at:
            pem = held.certificate.encode()
            return Admitted(claim.device, claim.tenant, pem, held.not_after)
    raise EnrolmentError(_BAD_CODE)


def _admit(unit: Unit, claim: Claim, hardware_class: str) -> Device:
    devices = Devices(unit.session)
    device = devices.find(claim.device)
    if device is None:
        device = Device(id=claim.device, tenant=claim.tenant, created_at=unit.now)
    elif device.tenant != claim.tenant:
        raise EnrolmentError(
            f"device {claim.device!r} belongs to another tenant; choose another name"
        )
    device.labels = {**device.labels, **claim.labels}
    device.hardware_class = hardware_class or device.hardware_class
    device.revoked_at = None
    devices.add(device)
    _revoke_keys(unit, device.id)
    return device


def _revoke_keys(unit: Unit, device_id: str) -> None:
    for key in Devices(unit.session).keys(device_id):
        key.revoked_at = unit.now


def _void_claims(unit: Unit, device_id: str) -> None:
    for claim in Devices(unit.session).open_claims(unit.now):
        if claim.device == device_id:
            unit.session.delete(claim)


def _row(
    issued: ca.Issued, key: ec.EllipticCurvePublicKey, device_id: str, now: float
) -> DeviceKey:
    return DeviceKey(
        serial=issued.serial,
        device=device_id,
        key_id=envelope.key_id(key),
        public_key=_der(key),
        certificate=issued.certificate_pem.decode(),
        not_before=issued.not_before,
        not_after=issued.not_after,
        created_at=now,
    )


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
