"""Rollouts, their members and their history."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, func, or_
from sqlmodel import Session, col, select

from fleet.registry.errors import NotFoundError
from fleet.registry.tables import Rollout, RolloutDevice, RolloutStep


class Rollouts:
    """Queries over rollouts."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, row: Rollout | RolloutDevice | RolloutStep) -> None:
        """Add a row."""
        self._session.add(row)
        self._session.flush()

    def find(self, rollout: str) -> Rollout | None:
        """One rollout, or None."""
        return self._session.get(Rollout, rollout)

    def get(self, rollout: str) -> Rollout:
        """One rollout. Raises NotFoundError."""
        found = self.find(rollout)
        if found is None:
            raise NotFoundError(
                f"expected the id of a rollout, found {rollout!r}; see `outrider rollout list`"
            )
        return found

    def get_for_update(self, rollout: str) -> Rollout:
        """One rollout; no other transaction steps it until this one ends."""
        query = select(Rollout).where(Rollout.id == rollout).with_for_update()
        found = self._session.exec(query.execution_options(populate_existing=True)).first()
        return self.get(rollout) if found is None else found

    def all(self, *, limit: int = 200) -> Sequence[Rollout]:
        """Rollouts, newest first."""
        query = select(Rollout).order_by(col(Rollout.created_at).desc(), col(Rollout.id))
        return self._session.exec(query.limit(limit)).all()

    def in_states(self, states: Sequence[str]) -> Sequence[Rollout]:
        """Rollouts in one of `states`, oldest first."""
        query = select(Rollout).where(col(Rollout.state).in_(list(states)))
        return self._session.exec(query.order_by(col(Rollout.created_at))).all()

    def count_by_state(self) -> dict[str, int]:
        """How many rollouts are in each state."""
        query = select(Rollout.state, func.count()).group_by(col(Rollout.state))
        return dict(self._session.exec(query).all())

    def members(self, rollout: str) -> Sequence[RolloutDevice]:
        """Members in the order in which they were resolved."""
        query = (
            select(RolloutDevice)
            .where(RolloutDevice.rollout == rollout)
            .order_by(col(RolloutDevice.position))
        )
        return self._session.exec(query).all()

    def member(self, rollout: str, device: str) -> RolloutDevice | None:
        """One member."""
        return self._session.get(RolloutDevice, (rollout, device))

    def of_device_for_update(
        self, device: str, states: Sequence[str], *, succeeded: str = ""
    ) -> Sequence[Rollout]:
        """Rollouts that have `device` as a member; locked, in a fixed order.

        Args:
            device: the member.
            states: those in one of these states.
            succeeded: and those of this release that have succeeded.
        """
        late = and_(col(Rollout.state) == "succeeded", col(Rollout.release) == succeeded)
        wanted = or_(col(Rollout.state).in_(list(states)), late)
        query = (
            select(Rollout)
            .join(RolloutDevice, col(RolloutDevice.rollout) == col(Rollout.id))
            .where(RolloutDevice.device == device, wanted)
            .order_by(col(Rollout.id))
            .with_for_update(of=Rollout)
        )
        return self._session.exec(query.execution_options(populate_existing=True)).all()

    def steps(self, rollout: str) -> Sequence[RolloutStep]:
        """What happened, oldest first."""
        query = select(RolloutStep).where(RolloutStep.rollout == rollout)
        return self._session.exec(query.order_by(col(RolloutStep.number))).all()

    def last_step_number(self, rollout: str) -> int:
        """Number of the newest step; 0 when there is none."""
        query = select(func.max(RolloutStep.number)).where(RolloutStep.rollout == rollout)
        return self._session.exec(query).one() or 0
