"""Units of work, attempts and workers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import WorkAttempt, Worker, WorkUnit

_OPEN = ("queued", "running")


class Work:
    """Queries over the work that compile jobs are cut into."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: WorkUnit | WorkAttempt | Worker) -> None:
        """Add a row, and give its constraints their chance to refuse it at once."""
        self._session.add(row)
        self._session.flush()

    def unit(self, unit: str) -> WorkUnit:
        """One unit, for whoever may change it. Raises NotFoundError."""
        found = self._session.get(WorkUnit, unit, with_for_update=True)
        if found is None:
            raise NotFoundError(f"expected the id of a unit of work, found {unit!r}")
        return found

    def find_unit(self, unit: str) -> WorkUnit | None:
        """One unit, for whoever may change it."""
        return self._session.get(WorkUnit, unit, with_for_update=True)

    def units(self, *jobs: str) -> Sequence[WorkUnit]:
        """The units of some jobs, in their order within each job."""
        query = (
            select(WorkUnit)
            .where(col(WorkUnit.job).in_(jobs))
            .order_by(col(WorkUnit.job), col(WorkUnit.position))
        )
        return self._session.exec(query).all()

    def open_units(self) -> Sequence[WorkUnit]:
        """Units that are not ended, oldest first."""
        query = (
            select(WorkUnit)
            .where(col(WorkUnit.state).in_(_OPEN))
            .order_by(col(WorkUnit.created_at), col(WorkUnit.id))
        )
        return self._session.exec(query).all()

    def attempts(self, *units: str) -> Sequence[WorkAttempt]:
        """The attempts at some units, oldest first within each unit."""
        query = (
            select(WorkAttempt)
            .where(col(WorkAttempt.unit).in_(units))
            .order_by(col(WorkAttempt.unit), col(WorkAttempt.number))
        )
        return self._session.exec(query).all()

    def newest_attempt(self, unit: str) -> WorkAttempt | None:
        """The newest attempt at a unit."""
        query = (
            select(WorkAttempt)
            .where(WorkAttempt.unit == unit)
            .order_by(col(WorkAttempt.number).desc())
            .limit(1)
        )
        return self._session.exec(query).first()

    def running_attempts(self, *, worker: str | None = None) -> Sequence[WorkAttempt]:
        """Attempts that are under way; of one worker when given."""
        query = select(WorkAttempt).where(WorkAttempt.state == "running")
        if worker is not None:
            query = query.where(WorkAttempt.worker == worker)
        return self._session.exec(query).all()

    def find_worker(self, name: str) -> Worker | None:
        """The worker of that name, for whoever may change it."""
        return self._session.get(Worker, name, with_for_update=True)

    def worker(self, name: str) -> Worker:
        """The worker of that name. Raises NotFoundError."""
        found = self.find_worker(name)
        if found is None:
            raise NotFoundError(f"expected the name of a worker, found {name!r}; list the workers")
        return found

    def workers(self) -> Sequence[Worker]:
        """All workers by name."""
        return self._session.exec(select(Worker).order_by(col(Worker.name))).all()

    def forget_worker(self, worker: Worker) -> None:
        """Remove a worker; what it did stays."""
        self._session.delete(worker)
