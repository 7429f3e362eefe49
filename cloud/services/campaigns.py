"""Rebuild campaigns: a changed runtime on devices asks for artifacts that were built, or proven, for it.

Rules:
- What devices report is compared with what they should run, every `LOOK_EVERY_S`: an engine fits one version of
  its runtime, other files the range of their target's profile and the major version that they were built with.
- A version is raised after `SETTLE_S`: a fleet that is being upgraded reports it birth by birth.
- Started means queued: one compile job per model version with all its concerned targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cloud.audit import log
from cloud.context import Context, Unit
from cloud.services import jobs
from compiler.errors import CatalogError
from compiler.targets import catalog
from fleet.registry.repositories import Campaigns, Proving
from fleet.registry.tables import Artifact, Campaign, Device
from ota.proving import versions
from ota.proving.campaign import CAMPAIGN, CampaignState, CampaignTrigger
from ota.proving.versions import Built

LOOK_EVERY_S = 30.0
SETTLE_S = 60.0
WATCHED = ("noticed", "open", "gone")
SHOWN = ("open", "started", "dismissed")
_Key = tuple[str, str, str]
Concerned = dict[_Key, dict[str, dict[str, Any]]]
Ranges = Callable[[str], dict[str, str]]


def ranges_of(target: str) -> dict[str, str]:
    """By runtime, the versions that a target's profile allows; nothing for a target that is not known here."""
    try:
        return dict(catalog.get(target).runtime_versions)
    except CatalogError:
        return {}


def look(context: Context, *, ranges: Ranges = ranges_of) -> int:
    """Compare what devices report with what they should run; returns how many campaigns moved."""
    with context.unit() as unit:
        repository = Campaigns(unit.session)
        found, devices = _concerned(unit, repository.in_use(), ranges)
        known = {(row.hardware_class, row.runtime, row.version): row for row in repository.all()}
        moved = 0
        for key in sorted(found):
            row = known.get(key)
            if row is None:
                hardware_class, runtime, version = key
                row = Campaign(
                    id=context.ids(),
                    hardware_class=hardware_class,
                    runtime=runtime,
                    version=version,
                    noticed_at=unit.now,
                )
                repository.add(row)
                moved += 1
            if row.state in WATCHED:
                row.artifacts = [found[key][sha256] for sha256 in sorted(found[key])]
                row.devices = len(devices[key])
                moved += _settle(unit, row)
        for key, row in known.items():
            if key not in found and row.state in {"noticed", "open"}:
                _move(unit, row, CampaignTrigger.VANISHED)
                moved += 1
        to_start = [row.id for row in repository.all(states=["open"])]
    if context.settings.rebuild_campaigns == "auto":
        for campaign in to_start:
            start(context, campaign, by="cloud")
    return moved


def start(context: Context, campaign_id: str, *, by: str) -> Campaign:
    """Queue the compile jobs of a campaign; one that was started already stays as it is.

    Raises:
        NotFoundError: no such campaign.
        UnlistedTransitionError: it cannot be started from where it stands.
    """
    with context.read() as session:
        row = Campaigns(session).get(campaign_id)
    if row.state == CampaignState.STARTED.value:
        return row
    CAMPAIGN.next(CampaignState(row.state), CampaignTrigger.START)
    queued = {}
    for (model, version), targets in _work(row).items():
        job = jobs.submit(context, model=model, version=version, targets=targets, by=by)
        queued[f"{model}@{version}"] = job.id
    with context.unit() as unit:
        row = Campaigns(unit.session).get_for_update(campaign_id)
        row.jobs = queued
        _decide(unit, row, CampaignTrigger.START, by=by)
    return row


def dismiss(context: Context, campaign_id: str, *, by: str) -> Campaign:
    """Leave the artifacts as they are; a campaign that was dismissed already stays as it is.

    Raises:
        NotFoundError: no such campaign.
        UnlistedTransitionError: it cannot be dismissed from where it stands.
    """
    with context.unit() as unit:
        row = Campaigns(unit.session).get_for_update(campaign_id)
        if row.state != CampaignState.DISMISSED.value:
            _decide(unit, row, CampaignTrigger.DISMISS, by=by)
    return row


def _concerned(
    unit: Unit, in_use: Iterable[tuple[Device, Artifact]], ranges: Ranges
) -> tuple[Concerned, dict[_Key, set[str]]]:
    """By class, runtime and reported version: the artifacts that do not fit it, and the devices."""
    rows = list(in_use)
    trials = Proving(unit.session).newest_of(sorted({a.sha256 for _, a in rows if a.trial}))
    found: Concerned = {}
    devices: dict[_Key, set[str]] = {}
    for device, artifact in rows:
        version = _reported(device, artifact.runtime)
        own = [artifact.runtime_version]
        if artifact.sha256 in trials:
            own.append(str(trials[artifact.sha256].facts.get("runtime_version", "")))
        built = Built(artifact.runtime, tuple(filter(None, own)))
        allowed = ranges(artifact.target).get(artifact.runtime, "")
        if not version or versions.fits(built, version, allowed):
            continue
        key = (device.hardware_class, artifact.runtime, version)
        devices.setdefault(key, set()).add(device.id)
        found.setdefault(key, {})[artifact.sha256] = {
            "sha256": artifact.sha256,
            "model": artifact.model,
            "version": artifact.version,
            "target": artifact.target,
            "built_for": ", ".join(built.versions),
        }
    return found, devices


def _reported(device: Device, runtime: str) -> str:
    for row in device.runtimes:
        if row.get("name") == runtime and row.get("available", True):
            return str(row.get("version") or "")
    return ""


def _settle(unit: Unit, row: Campaign) -> int:
    """Raise what has stayed, take up again what has returned; returns how many steps that were."""
    if row.state == CampaignState.GONE.value:
        row.noticed_at = unit.now
        _move(unit, row, CampaignTrigger.RETURNED)
        return 1
    if row.state != CampaignState.NOTICED.value or unit.now < row.noticed_at + SETTLE_S:
        return 0
    row.raised_at = unit.now
    _move(unit, row, CampaignTrigger.STAYED)
    _audit(unit, row, "campaign.raise", by="cloud")
    return 1


def _work(row: Campaign) -> dict[tuple[str, str], list[str]]:
    work: dict[tuple[str, str], list[str]] = {}
    for artifact in row.artifacts:
        targets = work.setdefault((artifact["model"], artifact["version"]), [])
        if artifact["target"] not in targets:
            targets.append(artifact["target"])
    return work


def _decide(unit: Unit, row: Campaign, trigger: CampaignTrigger, *, by: str) -> None:
    row.decided_at, row.decided_by = unit.now, by
    _move(unit, row, trigger)
    _audit(unit, row, f"campaign.{trigger.value}", by=by)


def _move(unit: Unit, row: Campaign, trigger: CampaignTrigger) -> None:
    row.state = CAMPAIGN.next(CampaignState(row.state), trigger).value
    unit.session.flush()
    unit.publish("campaign", campaign=row.id, state=row.state)


def _audit(unit: Unit, row: Campaign, action: str, *, by: str) -> None:
    log.record(
        unit,
        actor=by,
        action=action,
        subject=f"{row.hardware_class} {row.runtime} {row.version}",
        campaign=row.id,
        artifacts=[artifact["sha256"] for artifact in row.artifacts],
        jobs=row.jobs,
    )
