"""Rollouts: preview, make, order, watch."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from cloud.api.access import Cloud, Operator, Viewer
from cloud.api.answers import answer
from cloud.services import rollouts, views
from cloud.services.cohorts import Cohort
from ota.rollout.plan import RolloutSpec

router = APIRouter(prefix="/rollouts", tags=["rollouts"])

Order = Literal["start", "pause", "resume", "abort", "rollback"]


class CohortQuery(BaseModel):
    """Which devices; every part that is given must hold."""

    model_config = ConfigDict(extra="forbid")
    devices: list[str] = Field(default=[], max_length=100_000)
    labels: dict[str, str] = {}
    hardware_class: str = ""


class Plan(BaseModel):
    """What a rollout would be."""

    model_config = ConfigDict(extra="forbid")
    release: str
    cohort: CohortQuery = CohortQuery()
    waves: list[float] = Field(default=[10.0, 50.0, 100.0], max_length=100)
    max_failures: int = Field(default=0, ge=0)
    soak_s: float = Field(default=300.0, ge=0)
    wave_timeout_s: float = Field(default=3600.0, gt=0)
    offline_grace_s: float = Field(default=30.0, ge=0)
    limit_bytes_s: int = Field(default=0, ge=0, le=1 << 40)
    quiet: list[str] = Field(default=[], max_length=8)
    broadcast: bool = True

    def spec(self) -> RolloutSpec:
        """As the machine takes it."""
        return RolloutSpec(
            waves=self.waves,
            max_failures=self.max_failures,
            soak_s=self.soak_s,
            wave_timeout_s=self.wave_timeout_s,
            offline_grace_s=self.offline_grace_s,
            limit_bytes_s=self.limit_bytes_s,
            quiet=self.quiet,
            broadcast=self.broadcast,
        )

    def query(self) -> Cohort:
        """As the service takes it."""
        return Cohort(
            devices=self.cohort.devices,
            labels=self.cohort.labels,
            hardware_class=self.cohort.hardware_class,
        )


class NewRollout(Plan):
    """What to roll out."""

    start: bool = False


@router.post("/preview")
def preview(body: Plan, cloud: Cloud, _by: Viewer) -> Response:
    """What a rollout would be: variant per device, waves, bytes, and who cannot take it and why."""
    with cloud.read() as session:
        return answer(
            views.preview(session, release=body.release, cohort=body.query(), spec=body.spec())
        )


@router.post("", status_code=201)
def create(body: NewRollout, cloud: Cloud, by: Operator) -> Response:
    """Make a rollout, and start it when asked to."""
    rollout = rollouts.create(
        cloud,
        release=body.release,
        cohort=body.query(),
        spec=body.spec(),
        start=body.start,
        by=by.name,
    )
    return _show(cloud, rollout, 201)


@router.get("")
def list_rollouts(cloud: Cloud, _by: Viewer) -> Response:
    """Rollouts, newest first."""
    with cloud.read() as session:
        return answer(views.rollouts(session))


@router.get("/{rollout}")
def show(rollout: str, cloud: Cloud, _by: Viewer) -> Response:
    """One rollout with its waves, members and history."""
    return _show(cloud, rollout)


@router.post("/{rollout}/{order}")
def give_order(rollout: str, order: Order, cloud: Cloud, by: Operator) -> Response:
    """Start, pause, resume, abort or roll back; an order that is fulfilled already changes nothing."""
    rollouts.order(cloud, rollout, order, by=by.name)
    return _show(cloud, rollout)


def _show(cloud: Cloud, rollout: str, status: int = 200) -> Response:
    with cloud.read() as session:
        return answer(views.rollout(session, rollout), status)
