"""What devices sent up: the ledger, reports, events, windows, drift."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import and_, func
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from fleet.registry.tables import DeviceEvent, DriftState, Received, Report, TelemetryWindow

FIRST_SEQ = 1
SELF_TESTED = ("activating", "measured")
"""States that a device enters with the figures of a self-test."""


class Reception(NamedTuple):
    """How complete one boot epoch of a device is.

    Attributes:
        missing: sequence numbers up to `last` that neither came nor stand merged in one that did.
    """

    boot_epoch: str
    first: int
    last: int
    rows: int
    missing: int
    newest_at: float


class Telemetry:
    """Queries over what devices sent."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def first_time(self, row: Received) -> bool:
        """Enter a row into the ledger; False when it stands there already."""
        if self._session.get(Received, (row.device, row.boot_epoch, row.seq)) is not None:
            return False
        self._session.add(row)
        self._session.flush()
        return True

    def add(self, row: Report | DeviceEvent | TelemetryWindow) -> None:
        """Add a row that is in the ledger."""
        self._session.add(row)

    def has(self, device: str, boot_epoch: str, seq: int) -> bool:
        """Whether a row was committed."""
        return self._session.get(Received, (device, boot_epoch, seq)) is not None

    def receptions(self, device: str) -> list[Reception]:
        """Completeness by boot epoch, newest first."""
        query = (
            sa_select(
                col(Received.boot_epoch),
                func.min(Received.seq),
                func.max(Received.seq),
                func.count(),
                func.sum(Received.covers),
                func.max(Received.received_at),
            )
            .where(col(Received.device) == device)
            .group_by(col(Received.boot_epoch))
        )
        rows = self._session.connection().execute(query).all()
        found = [
            Reception(
                epoch, first, last, rows, max(0, last - min(first, FIRST_SEQ) + 1 - covered), newest
            )
            for epoch, first, last, rows, covered, newest in rows
        ]
        return sorted(found, key=lambda r: r.newest_at, reverse=True)

    def reports(self, device: str, *, limit: int = 200) -> Sequence[Report]:
        """Reports of a device, newest first."""
        query = select(Report).where(Report.device == device).order_by(col(Report.at).desc())
        return self._session.exec(query.limit(limit)).all()

    def self_tests(self, sha256: Sequence[str]) -> Sequence[Report]:
        """Reports that told a self-test of some artifacts that was passed, oldest first."""
        query = select(Report).where(
            col(Report.sha256).in_(list(sha256)), col(Report.state).in_(SELF_TESTED)
        )
        return self._session.exec(query.order_by(col(Report.received_at))).all()

    def events(self, device: str | None = None, *, limit: int = 200) -> Sequence[DeviceEvent]:
        """Events, newest first; of one device when given."""
        query = select(DeviceEvent).order_by(col(DeviceEvent.at).desc()).limit(limit)
        if device is not None:
            query = query.where(DeviceEvent.device == device)
        return self._session.exec(query).all()

    def windows(
        self, device: str, *, model: str | None = None, sha256: str | None = None, limit: int = 500
    ) -> Sequence[TelemetryWindow]:
        """Windows of a device, newest first."""
        query = (
            select(TelemetryWindow)
            .where(TelemetryWindow.device == device)
            .order_by(col(TelemetryWindow.ended).desc(), col(TelemetryWindow.seq).desc())
            .limit(limit)
        )
        if model is not None:
            query = query.where(TelemetryWindow.model == model)
        if sha256 is not None:
            query = query.where(TelemetryWindow.sha256 == sha256)
        return self._session.exec(query).all()

    def newest_windows(self, devices: Sequence[str]) -> Sequence[TelemetryWindow]:
        """The newest window of each device and model."""
        newest = (
            sa_select(
                col(TelemetryWindow.device),
                col(TelemetryWindow.model),
                func.max(TelemetryWindow.ended).label("ended"),
            )
            .where(col(TelemetryWindow.device).in_(list(devices)))
            .group_by(col(TelemetryWindow.device), col(TelemetryWindow.model))
            .subquery()
        )
        query = select(TelemetryWindow).join(
            newest,
            and_(
                col(TelemetryWindow.device) == newest.c.device,
                col(TelemetryWindow.model) == newest.c.model,
                col(TelemetryWindow.ended) == newest.c.ended,
            ),
        )
        return self._session.exec(query.order_by(col(TelemetryWindow.seq))).all()

    def windows_of_artifacts(
        self, sha256: Sequence[str], *, since: float, limit: int = 5000
    ) -> Sequence[TelemetryWindow]:
        """Windows of some artifacts over all devices since a time, oldest first."""
        query = (
            select(TelemetryWindow)
            .where(
                col(TelemetryWindow.sha256).in_(list(sha256)), col(TelemetryWindow.ended) >= since
            )
            .order_by(col(TelemetryWindow.ended))
            .limit(limit)
        )
        return self._session.exec(query).all()

    def newest_windows_of_artifacts(
        self, sha256: Sequence[str], *, limit: int
    ) -> Sequence[TelemetryWindow]:
        """The newest windows of some artifacts over all devices."""
        query = select(TelemetryWindow).where(col(TelemetryWindow.sha256).in_(list(sha256)))
        query = query.order_by(col(TelemetryWindow.ended).desc(), col(TelemetryWindow.seq).desc())
        return self._session.exec(query.limit(limit)).all()

    def totals(self, device: str | None = None) -> dict[tuple[str, str], tuple[int, int]]:
        """(inferences, errors) by (device, model)."""
        query = select(
            TelemetryWindow.device,
            TelemetryWindow.model,
            func.sum(TelemetryWindow.inferences),
            func.sum(TelemetryWindow.errors),
        ).group_by(col(TelemetryWindow.device), col(TelemetryWindow.model))
        if device is not None:
            query = query.where(TelemetryWindow.device == device)
        return {(d, m): (int(i), int(e)) for d, m, i, e in self._session.exec(query)}

    def drift(self, device: str, model: str) -> DriftState | None:
        """The registry's verdict on one device and model."""
        return self._session.get(DriftState, (device, model))

    def drifts(self) -> Sequence[DriftState]:
        """All verdicts, by device and model."""
        query = select(DriftState).order_by(col(DriftState.device), col(DriftState.model))
        return self._session.exec(query).all()

    def set_drift(self, row: DriftState) -> None:
        """Add or replace a verdict."""
        self._session.merge(row)
        self._session.flush()

    def counts(self) -> dict[str, int]:
        """How many rows of each kind were received."""
        query = select(Received.kind, func.count()).group_by(col(Received.kind))
        return dict(self._session.exec(query).all())
