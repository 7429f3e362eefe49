"""Reports of a model's update.

Rule: once an assignment was reported as ended, nothing else is reported for it, except the very same end
again (after a restart, because nobody knows whether the first report was written).
"""

from __future__ import annotations

from agent.core.context import Context
from agent.core.records import ModelRecord
from agent.core.states import TERMINAL, State
from fleet.wire import codec
from fleet.wire.messages import Reported


def report(
    ctx: Context,
    record: ModelRecord,
    *,
    figures: dict[str, float] | None = None,
    progress: float = 0.0,
    url: str = "",
) -> None:
    """Buffer a report of where `record` stands, unless that would take an end back."""
    if record.settled_counter >= record.counter and record.settled_as != record.state.value:
        return
    subject = record.active if record.state is State.COMMITTED else record.candidate
    seq = ctx.next_seq()
    message = Reported(
        device=ctx.settings.device,
        boot_epoch=ctx.boot_epoch,
        seq=seq,
        model=record.model,
        release=subject.release if subject else "",
        sha256=subject.sha256 if subject else "",
        assignment_counter=record.counter,
        state=record.state.value,
        at=ctx.device_time(),
        terminal=record.state in TERMINAL,
        progress=progress,
        error_code=record.error_code,
        detail=record.detail[:2000],
        figures=figures or {},
        facts=record.facts,
        url=url,
    )
    ctx.append("reported", seq, codec.to_json(message))
    ctx.log(
        "warning" if record.error_code else "info",
        f"update.{record.state.value}",
        record.detail[:200],
        model=record.model,
        release=message.release,
        error=record.error_code,
    )
