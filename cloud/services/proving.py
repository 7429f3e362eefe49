"""Proving devices and their trials: what the compiling host could not run is tried where it runs, and judged here.

Rules:
- An operator names a device, for the hardware class that it is of; a device that says later that it is of
  another class proves nothing.
- A trial goes the ordinary signed way: the candidate is signed for that one device (`TargetCustom.candidate_for`)
  and assigned to it; the device measures it, never activates it, and goes back to what it ran before.
- Only a terminal report that the device signed, for this very candidate under this assignment, ends a trial with
  a verdict; the signed envelope is kept with it. What comes late, twice or from elsewhere changes nothing.
- Locks are taken in one order: rollouts, devices, trials.
"""

from __future__ import annotations

from typing import NamedTuple

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.errors import InputError
from cloud.services import attestors, cohorts, proving_limits, proving_steps
from cloud.services.releases import id_of
from fleet.registry.errors import ConflictError, NotFoundError
from fleet.registry.repositories import Devices, Models, Proving
from fleet.registry.tables import Artifact, Device, Trial
from fleet.wire.messages import Reported
from ota.proving import judge
from ota.proving.trial import TrialTrigger

MEASURED = "measured"
QUEUE_S = 7 * 86_400.0
RUN_S = 86_400.0


class Sealed(NamedTuple):
    """A device's message as it came, and the public key (DER) that it was verified by."""

    envelope: bytes
    key: bytes


def name(unit: Unit, device_id: str, *, on: bool, by: str) -> Device:
    """Name a device a proving device of its hardware class, or take that back.

    Raises:
        NotFoundError: no such device.
        InputError: it was revoked, or nobody knows yet of which class it is.
    """
    device = Devices(unit.session).get_for_update(device_id)
    if on and (device.revoked_at is not None or not device.hardware_class):
        found = "was revoked" if device.revoked_at is not None else "has never connected"
        raise InputError(
            f"expected a device that may connect and has told its hardware class, {device_id} {found}"
        )
    device.proving_class = device.hardware_class if on else ""
    action = "device.proving" if on else "device.proving_off"
    log.record(unit, actor=by, action=action, subject=device_id, hardware_class=device.hardware_class)  # fmt: skip
    unit.publish("device", device=device_id)
    return device


def prove(context: Context, sha256: str, *, device: str = "", by: str) -> Trial:
    """Try an unproven artifact on a proving device; it waits while the device has another trial.

    Args:
        context: the cloud.
        sha256: the artifact.
        device: which proving device; empty lets the first one that can run it.
        by: who asks.

    Raises:
        NotFoundError: no such artifact or device.
        ConflictError: it is being tried already.
        InputError: there is nothing to prove, or no proving device that can run it.
        UnattestedError: no known compiling host has attested it; devices would refuse it.
    """
    with context.read() as session:
        if Models(session).find_artifact(sha256) is None:
            raise NotFoundError(f"expected the digest of an artifact, found {sha256!r}")
    attested_by = attestors.of(
        context, sha256
    )  # hashes the blob, so it comes before the transaction
    with context.unit() as unit:
        artifact = Models(unit.session).find_artifact(sha256)
        if artifact is None:
            raise NotFoundError(f"expected the digest of an artifact, found {sha256!r}")
        if artifact.standing != "unproven":
            raise InputError(
                f"expected an unproven artifact, {artifact.model}@{artifact.version} for "
                f"{artifact.target} is {artifact.standing}; there is nothing to prove"
            )
        chosen = _prover(unit, artifact, device)
        Devices(unit.session).get_for_update(chosen.id)
        known = Proving(unit.session).open_of_artifact(sha256)
        if known is not None:
            raise ConflictError(
                f"{artifact.model}@{artifact.version} for {artifact.target} is on trial already: "
                f"{known.id} on {known.device}, {known.state}; wait for it or cancel it"
            )
        trial = Trial(
            id=context.ids(),
            artifact=sha256,
            model=artifact.model,
            version=artifact.version,
            target=artifact.target,
            device=chosen.id,
            hardware_class=chosen.proving_class,
            attested_by=attested_by,
            created_at=unit.now,
            created_by=by,
        )
        Proving(unit.session).add(trial)
        subject = f"{trial.model}@{trial.version}"
        log.record(unit, actor=by, action="trial.request", subject=subject, trial=trial.id,
                   target=trial.target, artifact=sha256, device=chosen.id)  # fmt: skip
        proving_steps.begin_next(unit, context.settings, chosen.id)
        unit.publish("trial", trial=trial.id, model=trial.model)
    return trial


def cancel(context: Context, trial_id: str, *, by: str) -> Trial:
    """Call a trial off; the device goes back to what it ran. One that has ended already stays as it is.

    Raises:
        NotFoundError: no such trial.
    """
    with context.unit() as unit:
        device = Proving(unit.session).trial(trial_id).device
        Devices(unit.session).get_for_update(device)
        trial = Proving(unit.session).trial(trial_id)
        if trial.finished_at is None:
            proving_steps.end(
                unit, context.settings, trial, TrialTrigger.CALLED_OFF, f"called off by {by}", by=by
            )
            proving_steps.begin_next(unit, context.settings, device)
    return trial


def on_report(unit: Unit, context: Context, message: Reported, sealed: Sealed | None) -> None:
    """A device has reported; judges its trial when this is its end. The device is locked by the caller.

    Args:
        unit: the transaction that takes the report in.
        context: the cloud.
        message: the report, for the first time.
        sealed: as the device signed it; without it nothing is proven.
    """
    if not message.terminal or sealed is None:
        return
    trial = Proving(unit.session).running_on(message.device)
    if trial is None or not _is_about(trial, message):
        return
    trial.figures, trial.facts = dict(message.figures), dict(message.facts)
    trial.report, trial.report_key = sealed
    trigger, reason = _verdict(unit, trial, message)
    proving_steps.end(unit, context.settings, trial, trigger, reason, by=f"device:{message.device}")
    proving_steps.begin_next(unit, context.settings, message.device)


def tick(context: Context) -> int:
    """Call off what cannot go on, end what took too long, begin what waits; returns how many moved."""
    with context.read() as session:
        waiting = {trial.device for trial in Proving(session).open()}
    moved = 0
    for device_id in sorted(waiting):
        with context.unit() as unit:
            device = Devices(unit.session).get_for_update(device_id)
            for trial in Proving(unit.session).open():
                if trial.device == device_id and (why := _hopeless(trial, device, unit.now)):
                    proving_steps.end(unit, context.settings, trial, *why, by="cloud")
                    moved += 1
            moved += proving_steps.begin_next(unit, context.settings, device_id)
    return moved


def _prover(unit: Unit, artifact: Artifact, wanted: str) -> Device:
    able = Proving(unit.session).provers(artifact.hardware_classes)
    if wanted:
        device = Devices(unit.session).get(wanted)
        if device.id not in {each.id for each in able}:
            raise InputError(
                f"expected a proving device of {', '.join(artifact.hardware_classes)}, found {wanted} "
                f"of class {device.hardware_class or 'unknown'}; name it: outrider device proving {wanted}"
            )
        able = [device]
    reasons = []
    for device in able:
        if device.id == artifact.built_by:
            reasons.append(f"{device.id}: built it; another device of the class has to prove it")
            continue
        fits, reason = cohorts.choose(device, [artifact])
        if fits is not None:
            return device
        reasons.append(f"{device.id}: {reason}")
    raise InputError(
        f"expected a proving device of {', '.join(artifact.hardware_classes)} that can run "
        f"{artifact.runtime}, found {'; '.join(reasons) or 'none'}; "
        "name one: outrider device proving DEVICE"
    )


def _is_about(trial: Trial, message: Reported) -> bool:
    release = id_of(message.model, message.release)
    return (
        message.assignment_counter >= trial.counter
        and message.model == trial.model
        and (message.sha256, release) == (trial.artifact, trial.release)
    )


def _verdict(unit: Unit, trial: Trial, message: Reported) -> tuple[TrialTrigger, str]:
    device = Devices(unit.session).get(trial.device)
    if not _may_prove(trial, device):
        return (
            TrialTrigger.CALLED_OFF,
            f"{device.id} is no proving device of {trial.hardware_class}",
        )
    if message.state != MEASURED:
        why = " ".join(filter(None, (message.error_code, message.detail))) or message.state
        return TrialTrigger.MISSED, f"{message.state}: {why}"[:1000]
    artifact = Models(unit.session).find_artifact(trial.artifact)
    if artifact is None:
        raise AssertionError(f"the artifact of trial {trial.id} is gone")
    limits = proving_limits.of(unit.session, artifact, trial.hardware_class)
    found = judge.judge(trial.figures, limits)
    trial.gates = [
        {"name": gate.name, "passed": gate.passed, "detail": gate.detail} for gate in found.gates
    ]
    if not found.proven:
        return TrialTrigger.MISSED, found.reason
    artifact.proved_by, artifact.proved_at, artifact.trial = device.id, unit.now, trial.id
    return TrialTrigger.MET, found.reason


def _may_prove(trial: Trial, device: Device) -> bool:
    named = device.proving_class == trial.hardware_class == device.hardware_class
    return named and device.revoked_at is None


def _hopeless(trial: Trial, device: Device, now: float) -> tuple[TrialTrigger, str] | None:
    if not _may_prove(trial, device):
        reason = f"{device.id} is no proving device of {trial.hardware_class} any more"
        return TrialTrigger.CALLED_OFF, reason
    if trial.started_at is not None and now > trial.started_at + RUN_S:
        return TrialTrigger.TIMED_OUT, f"no verdict within {RUN_S / 3600:.0f} h"
    if trial.started_at is None and now > trial.created_at + QUEUE_S:
        return TrialTrigger.TIMED_OUT, f"not begun within {QUEUE_S / 86_400:.0f} days"
    return None
