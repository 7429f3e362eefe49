"""One step of a trial as one transaction: its state, what is signed for the device, and what it goes back to.

Rules:
- A device that a rollout is working on is left to it; the trial waits.
- A rollout that wants the device ends its trial first (`give_way`), so that it never takes a candidate for what ran before.
- A candidate's signature is taken back with the end of its trial.
"""

from __future__ import annotations

from cloud.audit import log
from cloud.context import Unit
from cloud.services import trust
from cloud.settings import Settings
from fleet.registry.repositories import Devices, Models, Proving, Rollouts, Trust
from fleet.registry.tables import Artifact, DesiredModel, Release, ReleaseVariant, Trial
from ota.errors import ReleaseError
from ota.proving.trial import TRIAL, TrialState, TrialTrigger

_AT_WORK = frozenset({"assigned", "stale"})
_OPEN_ROLLOUTS = ("running", "paused")


def begin_next(unit: Unit, settings: Settings, device: str) -> int:
    """Begin the oldest trial that waits for a device, when the device is free; returns how many were moved."""
    repository = Proving(unit.session)
    moved = 0
    for trial in repository.queued_on(device):
        if repository.running_on(device) is not None:
            break
        if _in_rollout(unit, trial):
            continue
        moved += 1
        try:
            _begin(unit, settings, trial)
        except ReleaseError as error:  # below the model's security floor, for instance
            end(unit, settings, trial, TrialTrigger.CALLED_OFF, str(error), by="cloud")
    return moved


def end(
    unit: Unit, settings: Settings, trial: Trial, trigger: TrialTrigger, reason: str, *, by: str
) -> None:
    """End a trial; what the device ran before is assigned again."""
    _restore(unit, trial)
    if trial.counter:
        trust.assign(unit, settings, trial.device)
    _finish(unit, settings, trial, trigger, reason, by=by)


def give_way(unit: Unit, settings: Settings, device: str, model: str, *, to: str) -> None:
    """End the device's trial of a model without an assignment of its own: the caller signs the next one."""
    Devices(unit.session).get_for_update(
        device
    )  # a trial that begins meanwhile waits for us, or we for it
    trial = Proving(unit.session).running_on(device)
    if trial is None or trial.model != model:
        return
    _restore(unit, trial)
    _finish(
        unit, settings, trial, TrialTrigger.CALLED_OFF, f"{to} took the device over", by="cloud"
    )


def _begin(unit: Unit, settings: Settings, trial: Trial) -> None:
    artifact = Models(unit.session).find_artifact(trial.artifact)
    if artifact is None:
        raise AssertionError(f"the artifact of trial {trial.id} is gone")
    release = _sign(unit, settings, trial, artifact)
    rows = Trust(unit.session)
    before = rows.desired_model(trial.device, trial.model)
    if before is not None:
        trial.previous_release, trial.previous_artifact = before.release, before.artifact
        trial.previous_rollout = before.rollout
    rows.set_desired(
        DesiredModel(
            device=trial.device,
            model=trial.model,
            release=release,
            artifact=artifact.sha256,
            updated_at=unit.now,
        )
    )
    trial.counter = trust.assign(unit, settings, trial.device).counter
    trial.state = TRIAL.next(TrialState(trial.state), TrialTrigger.BEGUN).value
    trial.release, trial.started_at = release, unit.now
    unit.session.flush()
    unit.publish("trial", trial=trial.id, model=trial.model)


def _sign(unit: Unit, settings: Settings, trial: Trial, artifact: Artifact) -> str:
    version = f"{artifact.version}-candidate.{trial.id}"
    candidate = trust.Variant(artifact, trial.attested_by)
    path = trust.add_candidate(unit, settings, candidate, release=version, device=trial.device)
    release = Release(
        id=f"{artifact.model}@{version}",
        model=artifact.model,
        version=version,
        security_floor="",
        created_at=unit.now,
        created_by=trial.created_by,
        candidate_for=trial.device,
    )
    models = Models(unit.session)
    models.add(release)
    models.add(
        ReleaseVariant(
            release=release.id, target=artifact.target, artifact=artifact.sha256, path=path
        )
    )
    return release.id


def _restore(unit: Unit, trial: Trial) -> None:
    """Desire what was desired before the trial, unless something else is desired by now."""
    rows = Trust(unit.session)
    current = rows.desired_model(trial.device, trial.model)
    if trial.release is None or current is None or current.release != trial.release:
        return
    if trial.previous_artifact is None:
        rows.clear_desired(trial.device, trial.model)
        return
    rows.set_desired(
        DesiredModel(
            device=trial.device,
            model=trial.model,
            release=trial.previous_release,
            artifact=trial.previous_artifact,
            rollout=trial.previous_rollout,
            updated_at=unit.now,
        )
    )


def _finish(
    unit: Unit, settings: Settings, trial: Trial, trigger: TrialTrigger, reason: str, *, by: str
) -> None:
    if trial.release is not None:
        for variant, _ in Models(unit.session).variants(trial.release):
            trust.withdraw_candidate(unit, settings, variant.path)
    trial.finished_at, trial.reason = unit.now, reason[:2000]
    trial.state = TRIAL.next(TrialState(trial.state), trigger).value
    unit.session.flush()
    log.record(
        unit,
        actor=by,
        action=f"trial.{trial.state}",
        subject=f"{trial.model}@{trial.version}",
        trial=trial.id,
        target=trial.target,
        artifact=trial.artifact,
        device=trial.device,
        reason=trial.reason,
    )
    unit.publish("trial", trial=trial.id, model=trial.model)
    unit.publish("model", model=trial.model, version=trial.version)


def _in_rollout(unit: Unit, trial: Trial) -> bool:
    rollouts = Rollouts(unit.session)
    for rollout in rollouts.in_states(_OPEN_ROLLOUTS):
        member = rollouts.member(rollout.id, trial.device)
        if member is not None and rollout.model == trial.model and member.state in _AT_WORK:
            return True
    return False
