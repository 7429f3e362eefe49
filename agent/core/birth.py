"""The birth message: who this device is and what it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from agent.core.machine import Machine
from fleet.wire import codec
from fleet.wire.messages import Birth, ModelStatus, RuntimeInfo
from ota.verify import trust

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
        assignment_sha256=trust.assignment_digest(core.trust.store),
        buffered=core.uplink.waiting,
        labels=ctx.settings.labels,
        environment=ctx.settings.environment,
    )
    ctx.publish("birth", codec.to_json(message), counter=0)  # unnumbered: nothing waits for its ack


def permitted(installed: Sequence[RuntimeInfo], allowed: Sequence[str]) -> list[RuntimeInfo]:
    """The runtimes as the cloud should see them: in the device's order of preference.

    Args:
        installed: what was found on this device.
        allowed: names from the configuration, best first; empty allows all as they were found.
    """
    if not allowed:
        return list(installed)
    order = {name: place for place, name in enumerate(allowed)}
    refused = "not among the runtimes that this device's configuration allows"
    seen = [
        info
        if info.name in order
        else msgspec.structs.replace(info, available=False, reason=refused)
        for info in installed
    ]
    return sorted(seen, key=lambda info: order.get(info.name, len(order)))


def _status(machine: Machine) -> ModelStatus:
    record, answering = machine.record, machine.service.answering
    shown = answering.content if answering is not None else record.active
    return ModelStatus(
        model=record.model,
        release=shown.release if shown else "",
        sha256=shown.sha256 if shown else "",
        state=record.state.value,
        counter=record.counter,
        previous_release=record.previous.release if record.previous else "",
        url=answering.url if answering is not None else "",
    )
