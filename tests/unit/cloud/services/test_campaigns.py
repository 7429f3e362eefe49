"""A changed runtime on devices raises one campaign, and its jobs end in a release of their own."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from support import clouds
from support.clouds import Cloud, Endpoint

from cloud.context import Context
from cloud.errors import InputError
from cloud.services import campaigns, releases, rollouts, views
from cloud.services.cohorts import Cohort
from cloud.services.views import CampaignLine
from fleet.errors import UnlistedTransitionError
from fleet.registry.repositories import Audit, Models
from fleet.wire.messages import RuntimeInfo
from ota.rollout.plan import RolloutSpec


def runtime(version: str) -> list[RuntimeInfo]:
    return [RuntimeInfo(name="tensorrt", version=version)]


def ranges(_target: str) -> dict[str, str]:
    return {"tensorrt": ">=10.3,<12", "onnxruntime": ">=1.20,<2"}


@pytest.fixture
def fleet(cloud: Cloud) -> list[Endpoint]:
    """Three devices that should run an engine for TensorRT 10.3."""
    cloud.publish_model()
    cloud.add_artifact(runtime="tensorrt", runtime_version="10.3.0", target="rtx-ada")
    releases.create(cloud.context, model="digits", version="1", by="ann")
    devices = [
        clouds.enrol(cloud, f"cam-{number}", runtimes=runtime("10.3.0")) for number in range(3)
    ]
    for device in devices:
        device.connect()
    rollouts.create(
        cloud.context, release="digits@1", cohort=Cohort(), spec=RolloutSpec(waves=[100.0]),
        start=True, by="op",
    )  # fmt: skip
    for device in devices:
        device.update()
    return devices


def upgrade(devices: list[Endpoint], version: str) -> None:
    for device in devices:
        device.runtimes = runtime(version)
        device.connect()


def look(cloud: Cloud, *, after_s: float = 0.0, context: Context | None = None) -> int:
    cloud.clock.now += after_s
    return campaigns.look(context or cloud.context, ranges=ranges)


def shown(cloud: Cloud) -> list[CampaignLine]:
    with cloud.context.read() as session:
        return views.campaigns(session)


def raised(cloud: Cloud) -> CampaignLine:
    look(cloud)
    look(cloud, after_s=campaigns.SETTLE_S)
    (line,) = shown(cloud)
    return line


def test_nothing_is_raised_while_all_fits(cloud: Cloud, fleet: list[Endpoint]) -> None:
    assert look(cloud) == 0
    assert shown(cloud) == []


def test_births_raise_one_campaign_after_a_while(cloud: Cloud, fleet: list[Endpoint]) -> None:
    upgrade(fleet[:1], "10.7.0")
    assert look(cloud) == 1
    assert shown(cloud) == []
    upgrade(fleet, "10.7.0")
    assert look(cloud, after_s=30) == 0
    assert look(cloud, after_s=31) == 1
    (line,) = shown(cloud)
    assert (line.state, line.devices, line.runtime, line.version) == ("open", 3, "tensorrt", "10.7.0")  # fmt: skip
    (artifact,) = line.artifacts
    assert (artifact["target"], artifact["built_for"]) == ("rtx-ada", "10.3.0")
    upgrade(fleet, "10.7.0")
    assert look(cloud, after_s=100) == 0
    assert len(shown(cloud)) == 1
    with cloud.context.read() as session:
        assert [e.action for e in Audit(session).all()].count("campaign.raise") == 1
    assert {"campaign": line.id, "state": "open"} in [
        note.data for note in cloud.notes if note.topic == "campaign"
    ]


def test_a_version_that_vanishes_closes_it_and_its_return_opens_it_again(
    cloud: Cloud, fleet: list[Endpoint]
) -> None:
    upgrade(fleet, "10.7.0")
    first = raised(cloud)
    upgrade(fleet, "10.3.0")
    assert look(cloud) == 1
    assert shown(cloud) == []
    with pytest.raises(UnlistedTransitionError):
        campaigns.start(cloud.context, first.id, by="ann")
    upgrade(fleet, "10.7.0")
    assert raised(cloud).id == first.id


def test_starting_queues_the_jobs_once(cloud: Cloud, fleet: list[Endpoint]) -> None:
    upgrade(fleet, "10.7.0")
    line = raised(cloud)
    for _ in range(2):
        campaigns.start(cloud.context, line.id, by="ann")
    with cloud.context.read() as session:
        (job,) = Models(session).jobs()
    assert (job.model, job.version, job.targets, job.created_by) == ("digits", "1", ["rtx-ada"], "ann")  # fmt: skip
    (after,) = shown(cloud)
    assert (after.state, after.jobs, after.decided_by) == ("started", {"digits@1": job.id}, "ann")
    with pytest.raises(UnlistedTransitionError):
        campaigns.dismiss(cloud.context, line.id, by="ann")
    assert look(cloud, after_s=1000) == 0


def test_what_was_dismissed_is_not_raised_again(cloud: Cloud, fleet: list[Endpoint]) -> None:
    upgrade(fleet, "10.7.0")
    line = raised(cloud)
    for _ in range(2):
        campaigns.dismiss(cloud.context, line.id, by="ann")
    assert look(cloud, after_s=1000) == 0
    assert shown(cloud)[0].state == "dismissed"
    with cloud.context.read() as session:
        assert not Models(session).jobs()


def test_by_policy_it_starts_itself(cloud: Cloud, fleet: list[Endpoint]) -> None:
    settings = msgspec.structs.replace(cloud.context.settings, rebuild_campaigns="auto")
    automatic = replace(cloud.context, settings=settings)
    upgrade(fleet, "10.7.0")
    look(cloud, context=automatic)
    look(cloud, after_s=campaigns.SETTLE_S, context=automatic)
    (line,) = shown(cloud)
    assert (line.state, line.decided_by) == ("started", "cloud")


def test_another_runtime_is_judged_by_its_range(cloud: Cloud) -> None:
    cloud.release()
    device = clouds.enrol(cloud, "cam", runtimes=[RuntimeInfo(name="onnxruntime", version="1.21")])
    device.connect()
    rollouts.create(
        cloud.context, release="digits@1", cohort=Cohort(), spec=RolloutSpec(waves=[100.0]),
        start=True, by="op",
    )  # fmt: skip
    with cloud.context.read() as session:
        (row,) = Models(session).artifacts("digits")[:1]
    assert look(cloud) == 0, row.runtime_version
    device.runtimes = [RuntimeInfo(name="onnxruntime", version="2.0.0")]
    device.connect()
    assert raised(cloud).version == "2.0.0"


def test_what_was_rebuilt_is_a_release_of_its_own(cloud: Cloud, fleet: list[Endpoint]) -> None:
    cloud.clock.now += 1
    rebuilt = cloud.add_artifact(runtime="tensorrt", runtime_version="10.7.0", target="rtx-ada")

    def create(*, rebuild: bool) -> str:
        made = releases.create(
            cloud.context, model="digits", version="1", rebuild=rebuild, by="ann"
        )
        return made.release.id

    with pytest.raises(InputError, match="sign a rebuild of this one"):
        create(rebuild=False)
    assert create(rebuild=True) == "digits@1-r1"
    assert create(rebuild=True) == "digits@1-r1"
    assert create(rebuild=False) == "digits@1-r1"
    with cloud.context.read() as session:
        (variant,) = views.release(session, "digits@1-r1").variants
    assert (variant.artifact, variant.path) == (rebuilt.sha256, "digits/1-r1/rtx-ada.outrider")
    upgrade(fleet, "10.7.0")
    rollouts.create(
        cloud.context, release="digits@1-r1", cohort=Cohort(), spec=RolloutSpec(waves=[100.0]),
        start=True, by="op",
    )  # fmt: skip
    for device in fleet:
        device.update()
        assert device.wanted == {"digits": rebuilt.sha256}
    assert look(cloud) == 0
