"""Devices, their keys, claims and models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import func
from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import Claim, Device, DeviceKey, DeviceModel


class Devices:
    """Queries over devices."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, device: str) -> Device | None:
        """The device of that id."""
        return self._session.get(Device, device)

    def get(self, device: str) -> Device:
        """The device of that id. Raises NotFoundError."""
        found = self.find(device)
        if found is None:
            raise NotFoundError(
                f"expected the id of an enrolled device, found {device!r}; see `outrider device list`"
            )
        return found

    def get_for_update(self, device: str) -> Device:
        """The device of that id; no other transaction changes it until this one ends."""
        query = select(Device).where(Device.id == device).with_for_update()
        found = self._session.exec(query.execution_options(populate_existing=True)).first()
        return self.get(device) if found is None else found

    def all(self, *, revoked: bool = False) -> Sequence[Device]:
        """All devices by id; the revoked ones only when `revoked`."""
        query = select(Device).order_by(col(Device.id))
        if not revoked:
            query = query.where(col(Device.revoked_at).is_(None))
        return self._session.exec(query).all()

    def some(self, devices: Iterable[str]) -> Sequence[Device]:
        """The devices of those ids that there are, by id."""
        query = select(Device).where(col(Device.id).in_(list(devices))).order_by(col(Device.id))
        return self._session.exec(query).all()

    def count(self) -> dict[tuple[bool, bool], int]:
        """How many devices there are by (online, revoked)."""
        revoked = col(Device.revoked_at).is_not(None)
        query = select(Device.online, revoked, func.count()).group_by(col(Device.online), revoked)
        return {(bool(online), bool(gone)): n for online, gone, n in self._session.exec(query)}

    def add(self, row: Device | DeviceKey | Claim | DeviceModel) -> None:
        """Add a row, and give its constraints their chance to refuse it at once."""
        self._session.add(row)
        self._session.flush()

    def keys(self, device: str) -> Sequence[DeviceKey]:
        """The device's keys that are not revoked, newest first."""
        query = (
            select(DeviceKey)
            .where(DeviceKey.device == device, col(DeviceKey.revoked_at).is_(None))
            .order_by(col(DeviceKey.created_at).desc())
        )
        return self._session.exec(query).all()

    def key(self, serial: str) -> DeviceKey | None:
        """The key whose certificate has that serial number (lower-case hex)."""
        return self._session.get(DeviceKey, serial)

    def revoked_serials(self, now: float) -> dict[str, float]:
        """When each certificate that would still hold was revoked, by its serial number."""
        query = select(DeviceKey).where(
            col(DeviceKey.revoked_at).is_not(None), col(DeviceKey.not_after) > now
        )
        return {key.serial: key.revoked_at or 0.0 for key in self._session.exec(query)}

    def claim(self, code_sha256: str) -> Claim | None:
        """The claim with that code's digest, whatever its state; locked until the transaction ends."""
        query = select(Claim).where(Claim.code_sha256 == code_sha256).with_for_update()
        return self._session.exec(query).first()

    def open_claims(self, now: float) -> Sequence[Claim]:
        """Claims that can still be used, oldest first."""
        query = (
            select(Claim)
            .where(col(Claim.used_at).is_(None), col(Claim.expires_at) > now)
            .order_by(col(Claim.created_at))
        )
        return self._session.exec(query).all()

    def model(self, device: str, model: str) -> DeviceModel | None:
        """What the device runs for one model."""
        return self._session.get(DeviceModel, (device, model))

    def models(self, devices: Iterable[str] | None = None) -> Sequence[DeviceModel]:
        """What `devices` (all when None) run, by device and model."""
        query = select(DeviceModel).order_by(col(DeviceModel.device), col(DeviceModel.model))
        if devices is not None:
            query = query.where(col(DeviceModel.device).in_(list(devices)))
        return self._session.exec(query).all()
