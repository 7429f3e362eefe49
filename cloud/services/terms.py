"""On what terms a device fetches what it should run: those of the rollout that gave it, and the cloud's own."""

from __future__ import annotations

import msgspec
from sqlmodel import Session

from cloud.settings import Settings
from fleet.registry.repositories import Rollouts
from fleet.registry.tables import DesiredModel
from ota.rollout.plan import RolloutSpec, RolloutState
from ota.transfer.terms import Terms


def of(session: Session, settings: Settings, want: DesiredModel) -> Terms:
    """The terms of one desired model."""
    above = int(settings.https_above_mib * (1 << 20))
    row = Rollouts(session).find(want.rollout) if want.rollout else None
    if row is None:
        return Terms(https_above_bytes=above)
    spec = msgspec.convert(row.spec, RolloutSpec)
    shared = 0
    if spec.broadcast:
        devices = msgspec.convert(row.machine, RolloutState).devices
        mine = devices.get(want.device)
        shared = sum(1 for each in devices.values() if mine and each.wave == mine.wave)
    return Terms(
        limit_bytes_s=spec.limit_bytes_s,
        quiet=spec.quiet,
        https_above_bytes=above,
        shared=shared,
    )
