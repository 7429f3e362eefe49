"""Queries about who is who: claims, devices' keys, revocations."""

from __future__ import annotations

from sqlmodel import Session, col, select

from fleet.registry.tables import Claim, Device, DeviceKey


def claim(session: Session, code_sha256: str) -> Claim | None:
    """The claim whose code has this digest."""
    return session.get(Claim, code_sha256)


def open_claims(session: Session, device: str, *, now: float) -> list[Claim]:
    """Claims for a device that could still be used."""
    query = select(Claim).where(
        Claim.device == device, col(Claim.used_at).is_(None), col(Claim.expires_at) > now
    )
    return list(session.exec(query))


def device(session: Session, device_id: str) -> Device | None:
    """An enrolled device."""
    return session.get(Device, device_id)


def known_devices(session: Session) -> list[Device]:
    """Every enrolled device that is not revoked, by id."""
    query = select(Device).where(col(Device.revoked_at).is_(None)).order_by(Device.id)
    return list(session.exec(query))


def live_keys(session: Session, device_id: str) -> list[DeviceKey]:
    """The keys that may speak for a device now: none when it is revoked."""
    query = (
        select(DeviceKey)
        .join(Device)
        .where(
            DeviceKey.device == device_id,
            col(DeviceKey.revoked_at).is_(None),
            col(Device.revoked_at).is_(None),
        )
    )
    return list(session.exec(query))


def all_keys(session: Session, device_id: str) -> list[DeviceKey]:
    """Every key ever issued to a device."""
    return list(session.exec(select(DeviceKey).where(DeviceKey.device == device_id)))


def admitted(session: Session, *, serial: str, device_id: str, tenant: str) -> bool:
    """Whether the certificate with this serial number may still connect as that device."""
    key = session.get(DeviceKey, serial)
    owner = session.get(Device, device_id)
    return (
        key is not None
        and owner is not None
        and key.device == device_id
        and owner.tenant == tenant
        and key.revoked_at is None
        and owner.revoked_at is None
    )
