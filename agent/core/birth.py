"""The birth message: who this device is and what it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.machine import Machine
from fleet.wire import codec
from fleet.wire.messages import Birth, ModelStatus

if TYPE_CHECKING:
    from agent.core.core import Core


def birth(core: Core) -> None:
    """Publish it, with a new nonce that the answer must carry."""
    ctx = core.ctx
    message = Birth(
        device=ctx.settings.device,
        boot_epoch=ctx.boot_epoch,
        agent_version=ctx.settings.agent_version,
        hardware_class=ctx.settings.hardware_class,
        runtimes=core.runtimes,
        models=[_status(machine) for _, machine in sorted(core.machines.items())],
        trust=core.trust.versions(),
        nonce=core.trust.new_nonce(),
        assignment_counter=core.trust.acceptance.counter,
        buffered=core.uplink.waiting,
        labels=ctx.settings.labels,
    )
    ctx.publish("birth", codec.to_json(message), counter=ctx.next_seq())


def _status(machine: Machine) -> ModelStatus:
    record, answering = machine.record, machine.service.answering
    shown = answering.content if answering is not None else record.active
    return ModelStatus(
        model=record.model,
        release=shown.release if shown else "",
        sha256=shown.sha256 if shown else "",
        state=record.state.value,
        previous_release=record.previous.release if record.previous else "",
        url=answering.url if answering is not None else "",
    )
