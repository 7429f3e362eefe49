"""The one way by which a model's record changes: ask the table, save, then report. Effects follow later."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent.core.commands import SaveModel
from agent.core.context import Context
from agent.core.records import ModelRecord
from agent.core.reporting import report
from agent.core.states import HEAVY, TABLE, TERMINAL, State, Trigger
from fleet.errors import UnlistedTransitionError
from fleet.wire.messages import EventLevel

_ANEW: Final = frozenset({Trigger.ASSIGNED, Trigger.CONFIRMED, Trigger.WITHDRAWN})
"""What begins with no figures: those of the update before are not its own."""


class Mover:
    """Holds a record.

    Args:
        ctx: the core's surroundings.
        record: as it was persisted, or new.

    Attributes:
        url: where the model answers on this device, once it does; told with each report.
    """

    def __init__(self, ctx: Context, record: ModelRecord) -> None:
        self._ctx = ctx
        self.record = record
        self.url = ""

    @property
    def state(self) -> State:
        """Where the update stands."""
        return self.record.state

    def save(self, **changes: object) -> None:
        """Change and persist the record within its state."""
        self.record = msgspec.structs.replace(self.record, **changes)
        self._ctx.do(SaveModel(record=self.record))

    def move(
        self, trigger: Trigger, *, figures: dict[str, float] | None = None, **changes: Any
    ) -> bool:
        """Go where the table says, persist, report.

        Returns:
            False when the table does not list the pair; then nothing has changed but that it was told.
        """
        record = self.record
        try:
            state = TABLE.next(record.state, trigger)
        except UnlistedTransitionError as error:
            self._ctx.event(error.code, str(error), level=EventLevel.ERROR, model=record.model)
            return False
        if state in HEAVY or trigger is Trigger.REBOOTED:
            changes.setdefault("stores", record.stores + 1)
        if trigger is Trigger.PROVED:
            changes |= {"active": record.candidate, "previous": record.active}
        if trigger in _ANEW:
            changes |= {"figures": {}, "facts": {}}
        elif figures:
            changes["figures"] = figures
        if state in {State.COMMITTED, State.IDLE}:
            changes |= {"candidate": None, "error_code": "", "detail": ""}
        counter = changes.get("counter", record.counter)
        if state in TERMINAL and record.settled_counter != counter:
            figures = figures or changes.get("figures", record.figures)
            changes |= {"settled_counter": counter, "settled_as": state.value}
        self.save(**changes, state=state)
        report(self._ctx, self.record, figures=figures, url=self.url)
        return True

    def end_refused(self, code: str, detail: str) -> None:
        """The artifact must not run here."""
        self.move(Trigger.REJECTED, error_code=code, detail=detail)

    def disprove(self, code: str, detail: str, figures: dict[str, float] | None = None) -> bool:
        """Give the candidate up; what was active is restored next."""
        if not TABLE.allows(self.record.state, Trigger.DISPROVED):
            return False
        return self.move(Trigger.DISPROVED, figures=figures, error_code=code, detail=detail)
