"""When the disk refuses: what was not carried out is failed or said again, and saving is tried again.

Rules:
- The candidate of an update whose step could not be saved is given up; what is committed goes on answering.
- While the disk is behind no slot is written and no test begins, so that a power cut finds records
  whose slots are intact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core import commands as cmd
from agent.core.backoff import Backoff
from agent.core.events import (
    BuildFailed,
    PrepareFailed,
    RebuildFailed,
    StageFailed,
    StoreFailed,
)

if TYPE_CHECKING:
    from agent.core.core import Core

_HARMLESS = (
    cmd.Append,
    cmd.Forget,
    cmd.LoadRows,
    cmd.Publish,
    cmd.Discard,
    cmd.GetBlocks,
    cmd.Listen,
    cmd.CancelBuild,
    cmd.Drain,
    cmd.TakeFigures,
    cmd.StopWorker,
    cmd.TakeCertificate,
    cmd.AskForCertificate,
    cmd.Sense,
    cmd.Log,
)


class Storage:
    """Args: core: whose disk it is."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._backoff = Backoff(1.0, 60.0)
        self._retry_at = 0.0

    def deadline(self) -> float | None:
        """When saving is tried again."""
        return self._retry_at if self._core.ctx.unsaved else None

    def work(self) -> None:
        """Save everything again when it is time."""
        ctx, core = self._core.ctx, self._core
        if not ctx.unsaved or ctx.now < self._retry_at:
            return
        ctx.unsaved = False
        ctx.do(cmd.SaveDevice(record=core.device), cmd.SaveTrust(store=core.trust.store))
        for machine in core.machines.values():
            machine.resume()

    def failed(self, event: StoreFailed) -> None:
        """A list was cut short."""
        ctx = self._core.ctx
        ctx.unsaved = True
        self._retry_at = ctx.now + self._backoff.next_s()
        ctx.log("error", event.code, event.detail)
        self._core.notices.once(event.code, event.detail)
        for command in event.dropped:
            if isinstance(command, _HARMLESS):
                ctx.do(command)
            else:
                self._fail(command, event)

    def _fail(self, command: cmd.Command, event: StoreFailed) -> None:
        core, code, detail = self._core, event.code, event.detail
        if isinstance(command, (cmd.WriteBlock, cmd.SaveBitmap)):
            core.machine(command.model).acquisition.postpone(code, detail)
        elif isinstance(command, cmd.Prepare):
            core.machine(command.model).acquisition.prepare_failed(
                PrepareFailed(model=command.model, sha256=command.sha256, code=code, detail=detail)
            )
        elif isinstance(command, cmd.Rebuild):
            core.machine(command.model).acquisition.rebuild_failed(
                RebuildFailed(model=command.model, sha256=command.sha256, code=code, detail=detail)
            )
        elif isinstance(command, cmd.Stage):
            core.machine(command.model).acquisition.stage_failed(
                StageFailed(model=command.model, sha256=command.sha256, code=code, detail=detail)
            )
        elif isinstance(command, cmd.Build):
            core.machine(command.model).building.failed(
                BuildFailed(model=command.model, sha256=command.sha256, code=code, detail=detail)
            )
        elif isinstance(command, (cmd.StartWorker, cmd.TestWorker, cmd.Promote, cmd.TakeFigures)):
            for machine in core.machines.values():
                running = machine.service.find(command.worker)
                if running is not None:
                    machine.worker_lost(running, code, detail)
