"""What is told to people: events that must not flood, the device's health, and its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core import standing
from agent.core.context import Context
from agent.core.events import BufferTrimmed
from agent.core.machine import Machine
from agent.core.status import AgentStatus, ModelState
from fleet.health.judge import judge
from fleet.wire.messages import EventLevel

if TYPE_CHECKING:
    from agent.core.core import Core

QUIET_S = 60.0


class Notices:
    """Args: ctx: the core's surroundings."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._last: dict[str, float] = {}
        self._merged = self._evicted = self._damaged = 0
        self._findings: set[str] = set()

    def once(self, code: str, text: str) -> None:
        """An error, at most once a minute for each code; what comes between stands in the log only."""
        last = self._last.get(code)
        if last is None or self._ctx.now >= last + QUIET_S:
            self._last[code] = self._ctx.now
            self._ctx.event(code, text, level=EventLevel.ERROR)
        else:
            self._ctx.log("warning", code, text)

    def trimmed(self, event: BufferTrimmed) -> None:
        """The buffer lost resolution, or rows."""
        self._merged += event.merged
        self._evicted += event.evicted
        self._damaged += event.damaged
        if event.damaged:
            self.once("buffer.damaged", f"{self._damaged} rows were damaged and are lost")
        if event.evicted:
            self.once("buffer.evicted", f"{self._evicted} rows were evicted, the buffer is full")

    def health(self, figures: dict[str, float], *, waiting: int) -> None:
        """The sensors were read: figures each time, findings when they come and go."""
        buffer = {
            "buffer_waiting": float(waiting),
            "buffer_merged_total": float(self._merged),
            "buffer_evicted_total": float(self._evicted),
            "buffer_damaged_total": float(self._damaged),
        }
        measured = figures | buffer
        self._ctx.event("device.health", "", figures=measured)
        found = {finding.rule: finding for finding in judge(measured)}
        for rule, finding in found.items():
            if rule not in self._findings:
                self._ctx.event(f"health.{rule}", finding.text, level=finding.level)
        for rule in sorted(self._findings - found.keys()):
            self._ctx.event("health.mended", f"{rule} holds again")
        self._findings = set(found)

    def status(self, core: Core) -> AgentStatus:
        """The whole device at once."""
        settings, acceptance = self._ctx.settings, core.trust.acceptance
        assigned = {target.model: target.release for target in acceptance.targets}
        return AgentStatus(
            device=settings.device,
            tenant=settings.tenant,
            running=True,
            connected=self._ctx.connected,
            hardware_class=settings.hardware_class,
            agent_version=settings.agent_version,
            assignment_counter=acceptance.counter,
            trusted_time=self._ctx.trusted_now(),
            buffered=core.uplink.waiting,
            models=[_state(m, assigned.get(name, "")) for name, m in sorted(core.machines.items())],
            figures=core.figures,
            time_confirmed=self._ctx.time_confirmed,
            certificate_expires=core.renewal.certificate.expires,
            holds=standing.holds(core),
        )


def _state(machine: Machine, assigned: str) -> ModelState:
    record, service = machine.record, machine.service
    answering = service.answering
    serving = "down"
    if answering is not None:
        serving = "serving"
    elif service.incumbent is not None:
        serving = service.incumbent.phase.value
    shown = answering.content if answering is not None else record.active
    fetch = machine.acquisition.fetch
    fetched = fetch.progress if fetch is not None else 0.0
    return ModelState(
        model=record.model,
        state=record.state.value,
        release=shown.release if shown else "",
        sha256=shown.sha256 if shown else "",
        serving=serving,
        url=answering.url if answering is not None else "",
        assigned=assigned,
        candidate=record.candidate.release if record.candidate else "",
        previous=record.previous.release if record.previous else "",
        progress=fetched or machine.building.progress,
        error_code=record.error_code,
        detail=record.detail,
    )
