"""Rollouts: their waves, members and history, and what one would be before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session

from cloud.services import cohorts, rollout_steps
from cloud.services.cohorts import Cohort
from cloud.services.views.base import View
from fleet.registry.repositories import Devices, Models, Rollouts
from fleet.registry.tables import Artifact, Device, DeviceModel, Rollout, RolloutDevice
from ota.rollout import plan, waves
from ota.rollout.plan import RolloutSpec, RolloutState
from ota.rollout.tables import DeviceStatus

_SETTLED = frozenset({"committed", "failed", "stale", "restored"})


class WaveLine(View, frozen=True):
    """One wave.

    Attributes:
        percent: cumulative share of the devices.
        devices: how many members stand in each state.
    """

    number: int
    percent: float
    status: str
    began_at: float
    settled_at: float
    reason: str
    devices: dict[str, int]


class MemberLine(View, frozen=True):
    """One device of a rollout.

    Attributes:
        state: where it stands in the rollout.
        update_state, progress: what it says of its own update.
        running_release, running_sha256: what answers requests on it.
        at_goal: it runs what the rollout wants of it now: the release, or after a rollback what it ran before.
    """

    device: str
    online: bool
    wave: int
    state: str
    target: str
    runtime: str
    artifact: str
    size_bytes: int
    previous_release: str
    update_state: str
    progress: float
    running_release: str
    running_sha256: str
    at_goal: bool
    reason: str
    updated_at: float


class StepLine(View, frozen=True):
    """A line of a rollout's history."""

    number: int
    at: float
    code: str
    text: str


class RolloutLine(View, frozen=True):
    """A rollout in the list.

    Attributes:
        progress: share of the members that have come to an end, 0 to 1.
        counts: how many members stand in each state.
    """

    id: str
    release: str
    model: str
    state: str
    reason: str
    wave: int
    waves: int
    progress: float
    counts: dict[str, int]
    created_at: float
    created_by: str
    updated_at: float


class RolloutView(View, frozen=True):
    """The rollout page."""

    line: RolloutLine
    cohort: dict[str, Any]
    spec: dict[str, Any]
    waves: list[WaveLine]
    members: list[MemberLine]
    steps: list[StepLine]


class PreviewMember(View, frozen=True):
    """A device that a rollout would be for."""

    device: str
    online: bool
    wave: int
    target: str
    runtime: str
    artifact: str
    size_bytes: int
    reason: str


class Preview(View, frozen=True):
    """What a rollout would be: nothing is changed.

    Attributes:
        waves: devices by wave, if all goes well and nobody comes or goes.
        bytes_total: what the devices would fetch together.
    """

    release: str
    devices: int
    incompatible: int
    bytes_total: int
    waves: list[list[str]]
    members: list[PreviewMember]


def rollouts(session: Session) -> list[RolloutLine]:
    """Rollouts, newest first."""
    repository = Rollouts(session)
    return [_line(row, repository.members(row.id)) for row in repository.all()]


def rollout(session: Session, rollout_id: str) -> RolloutView:
    """One rollout. Raises NotFoundError."""
    repository = Rollouts(session)
    row = repository.get(rollout_id)
    rows = repository.members(rollout_id)
    state = rollout_steps.state_of(row)
    return RolloutView(
        line=_line(row, rows),
        cohort=dict(row.cohort),
        spec=dict(row.spec),
        waves=_waves(state),
        members=_members(session, row, rows),
        steps=[
            StepLine(number=s.number, at=s.at, code=s.code, text=s.text)
            for s in repository.steps(rollout_id)
        ],
    )


def preview(session: Session, *, release: str, cohort: Cohort, spec: RolloutSpec) -> Preview:
    """What a rollout would be.

    Raises:
        NotFoundError: no such release or device.
        InputError: nobody is in the cohort.
        RolloutError: a spec that cannot be carried out.
    """
    found = cohorts.resolve(session, cohort, release)
    able = {m.device.id: m.device.online for m in found if m.artifact is not None}
    planned = waves.preview(plan.create(spec, able, now=0.0)) if able else []
    wave_of = {device: index for index, names in enumerate(planned) for device in names}
    members = [
        PreviewMember(
            device=m.device.id,
            online=m.device.online,
            wave=wave_of.get(m.device.id, -1),
            target=m.artifact.target if m.artifact else "",
            runtime=m.artifact.runtime if m.artifact else "",
            artifact=m.artifact.sha256 if m.artifact else "",
            size_bytes=m.artifact.size_bytes if m.artifact else 0,
            reason=m.reason,
        )
        for m in found
    ]
    return Preview(
        release=release,
        devices=len(able),
        incompatible=len(found) - len(able),
        bytes_total=sum(m.size_bytes for m in members),
        waves=planned,
        members=members,
    )


def _line(row: Rollout, members: Sequence[RolloutDevice]) -> RolloutLine:
    counts: dict[str, int] = {}
    for member in members:
        counts[member.state] = counts.get(member.state, 0) + 1
    able = len(members) - counts.get("incompatible", 0)
    settled = sum(n for state, n in counts.items() if state in _SETTLED)
    return RolloutLine(
        id=row.id,
        release=row.release,
        model=row.model,
        state=row.state,
        reason=row.reason,
        wave=int(row.machine.get("wave", -1)),
        waves=len(row.machine.get("waves", [])),
        progress=settled / able if able else 0.0,
        counts=counts,
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
    )


def _waves(state: RolloutState) -> list[WaveLine]:
    lines = []
    for index, wave in enumerate(state.waves):
        counts: dict[str, int] = {}
        for device in state.devices.values():
            if device.wave == index and device.status is not DeviceStatus.PENDING:
                counts[device.status.value] = counts.get(device.status.value, 0) + 1
        lines.append(
            WaveLine(
                number=index + 1,
                percent=wave.percent,
                status=wave.status.value,
                began_at=wave.began_at,
                settled_at=wave.settled_at,
                reason=wave.reason,
                devices=counts,
            )
        )
    return lines


def _members(session: Session, row: Rollout, members: Sequence[RolloutDevice]) -> list[MemberLine]:
    models = Models(session)
    artifacts = {artifact.sha256: artifact for _, artifact in models.variants(row.release)}
    ids = [member.device for member in members]
    runs = {m.device: m for m in Devices(session).models(ids) if m.model == row.model}
    devices = {device.id: device for device in Devices(session).some(ids)}
    return [
        _member(member, devices[member.device], runs.get(member.device), artifacts)
        for member in members
    ]


def _member(
    member: RolloutDevice, device: Device, runs: DeviceModel | None, artifacts: dict[str, Artifact]
) -> MemberLine:
    artifact = artifacts.get(member.artifact or "")
    running = runs.running_sha256 if runs else ""
    restored = member.state == "restored"
    goal = (member.previous_artifact or "") if restored else (member.artifact or "")
    return MemberLine(
        device=member.device,
        online=device.online,
        wave=member.wave,
        state=member.state,
        target=artifact.target if artifact else "",
        runtime=artifact.runtime if artifact else "",
        artifact=member.artifact or "",
        size_bytes=artifact.size_bytes if artifact else 0,
        previous_release=member.previous_release,
        update_state=runs.state if runs else "",
        progress=runs.progress if runs else 0.0,
        running_release=runs.running_release if runs else "",
        running_sha256=running,
        at_goal=running == goal and (restored or bool(goal)),
        reason=member.reason,
        updated_at=max(member.updated_at, runs.updated_at if runs else 0.0),
    )
