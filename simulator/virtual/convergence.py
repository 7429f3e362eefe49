"""When a healed world counts as converged."""

from __future__ import annotations

from agent.core.core import Core
from agent.core.machine import Machine
from agent.core.states import SETTLED, State
from fleet.registry.repositories import Devices, Trust
from fleet.registry.tables import DeviceModel
from ota.verify.trust import Target
from simulator.virtual.backend import Backend
from simulator.virtual.device import Device

BACKLOG_S = 60.0


def unconverged(backend: Backend, device: Device) -> str:
    """Why a device has not converged yet; empty when it has."""
    core = device.core
    if core is None or not core.ctx.connected:
        return f"{device.name} is not connected"
    with backend.context.read() as session:
        row = Devices(session).get(device.name)
        newest = Trust(session).newest_assignment(device.name)
        models = {m.model: m for m in Devices(session).models([device.name])}
    held = core.trust.acceptance.counter
    counter = newest.counter if newest else 0
    if held != counter:
        return f"{device.name} holds assignment {held}, the newest is {counter}"
    if not row.online or row.assignment_counter != counter:
        return (
            f"the registry thinks that {device.name} is {'online' if row.online else 'offline'} "
            f"with assignment {row.assignment_counter}, it is online with {counter}"
        )
    for target in core.trust.acceptance.targets:
        why = _unfulfilled(core, target) or _unknown(core, target, models.get(target.model))
        if why:
            return f"{device.name}: {why}"
    owed_s = device.oldest_waiting_s()
    if owed_s > BACKLOG_S:
        return f"{device.name} has had a row in its buffer for {owed_s:.0f} s"
    return ""


def _unfulfilled(core: Core, target: Target) -> str:
    machine = core.machines[target.model]
    record = machine.record
    if record.state not in SETTLED or record.counter != core.trust.acceptance.counter:
        return f"{target.model} is {record.state.value} for assignment {record.counter}"
    runs = record.active.sha256 if record.active else ""
    if runs != target.sha256 and record.state is not State.FAILED:
        return f"{target.model} is {record.state.value} and runs {runs[:12] or 'nothing'}"
    return _silent(machine)


def _silent(machine: Machine) -> str:
    answering, active = machine.service.answering, machine.record.active
    if active is None:
        return ""
    if answering is None or answering.content.sha256 != active.sha256:
        return f"{machine.record.model} does not answer with what is committed"
    return ""


def _unknown(core: Core, target: Target, row: DeviceModel | None) -> str:
    record = core.machines[target.model].record
    if row is None:
        return f"the registry knows nothing of {target.model}"
    if row.state != record.state.value:
        return f"the registry has {target.model} as {row.state}, it is {record.state.value}"
    runs = record.active.sha256 if record.active else ""
    if row.running_sha256 != runs:
        return f"the registry has {target.model} running {row.running_sha256[:12]}, it runs {runs[:12]}"
    return ""
