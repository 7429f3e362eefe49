"""``outrider-agent status``: from the running daemon, else from the disk."""

from __future__ import annotations

import msgspec

from agent.adapters import control
from agent.adapters.identity import Identity
from agent.adapters.store import Store
from agent.config import Config
from agent.core import standing
from agent.core.records import ModelRecord
from agent.core.status import AgentStatus, ModelState
from agent.errors import LinkError
from ota.errors import VerificationError
from ota.verify import trust


def show(config: Config, *, as_json: bool) -> int:
    """Print the status; the exit code is 0 when a daemon runs, 3 when the disk was read.

    Raises:
        EnrolmentError: the device is not enrolled.
    """
    try:
        status = control.ask_status(config.state_path)
    except LinkError:
        status = _from_disk(config)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(status)).decode())
    else:
        print(_text(status))
    return 0 if status.running else 3


def _from_disk(config: Config) -> AgentStatus:
    identity = Identity(config.state_path)
    enrolment, certificate = identity.load(), identity.certificate()
    store = Store(config.state_path)
    kept, _ = store.load_trust(enrolment)
    try:
        assigned = {target.model: target.release for target in trust.installed(kept).targets}
    except VerificationError:
        assigned = {}
    return AgentStatus(
        device=enrolment.device,
        tenant=enrolment.tenant,
        running=False,
        connected=False,
        hardware_class=config.hardware_class,
        agent_version="",
        assignment_counter=kept.counter,
        trusted_time=kept.time_floor,
        certificate_expires=certificate.expires,
        holds=standing.on_disk(kept, certificate),
        buffered=0,
        models=[_model(r, assigned.get(r.model, "")) for r in store.load_models()],
    )


def _model(record: ModelRecord, assigned: str) -> ModelState:
    active = record.active
    return ModelState(
        model=record.model,
        state=record.state.value,
        release=active.release if active else "",
        sha256=active.sha256 if active else "",
        serving="down",
        url="",
        assigned=assigned,
        candidate=record.candidate.release if record.candidate else "",
        previous=record.previous.release if record.previous else "",
        progress=0.0,
        error_code=record.error_code,
        detail=record.detail,
    )


def _told(status: AgentStatus) -> str:
    return ", as the cloud told" if status.time_confirmed else ""


def _text(status: AgentStatus) -> str:
    link = "connected" if status.connected else "not connected"
    daemon = f"running, {link}" if status.running else "not running; this is what the disk says"
    lines = [
        f"device     {status.device} (tenant {status.tenant}, {status.hardware_class})",
        f"daemon     {daemon}",
        f"assignment {status.assignment_counter}",
        f"buffered   {status.buffered} messages",
        f"time       at least {standing.moment(status.trusted_time)}{_told(status)}",
        f"identity   until {standing.moment(status.certificate_expires)}",
    ]
    lines += [f"holds      {hold.code}: {hold.text}" for hold in status.holds]
    for model in status.models:
        lines.append(
            f"model      {model.model}: {model.release or 'none'} {model.serving} {model.url}".rstrip()
        )
        lines.append(f"           {model.state}, assigned {model.assigned or 'none'}")
        if model.candidate:
            done = "built" if model.state == "building" else "fetched"
            lines.append(f"           candidate {model.candidate}, {model.progress:.0%} {done}")
        if model.error_code:
            lines.append(f"           {model.error_code}: {model.detail}")
    return "\n".join(lines)
