"""A fleet that talks all at once, on each database: every report counts once, every window is stored once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import clouds
from support.clouds import Cloud, Endpoint

from cloud.audit import chain
from cloud.services import ingest, rollouts, views
from cloud.services.cohorts import Cohort
from fleet.registry.repositories import Audit
from fleet.telemetry.window import Window
from fleet.wire.messages import Status, TelemetryBatch
from ota.rollout.plan import RolloutSpec

DEVICES = 12
WINDOWS = 6


@pytest.fixture
def cloud(url: str, tmp_path: Path) -> Iterator[Cloud]:
    made = clouds.make(tmp_path / "data", url=url)
    yield made
    made.context.engine.dispose()


def window(seq: int) -> Window:
    return Window(
        boot_epoch="w", seq=seq, model="digits", release="1", sha256="ab" * 32, started=seq,
        ended=seq + 1, inferences=10,
    )  # fmt: skip


def talk(cloud: Cloud, device: Endpoint) -> None:
    """Everything that a device sends in an update, some of it twice."""
    device.fetch()
    device.report("fetching", progress=0.5)
    ingest.status(cloud.context, Status(device=device.name, online=False))
    device.connect()
    for seqs in ((n, n + 1) for n in range(1, WINDOWS + 1, 2)):
        ingest.telemetry(
            cloud.context, TelemetryBatch(device=device.name, windows=[*map(window, seqs)])
        )
    message = device.report("committed")
    ingest.reported(cloud.context, message)


def test_twelve_devices_at_once(cloud: Cloud) -> None:
    cloud.release()
    devices = [clouds.enrol(cloud, f"cam-{n:02}") for n in range(DEVICES)]
    for device in devices:
        device.connect()
    spec = RolloutSpec(waves=[100.0], soak_s=0.0)
    rollout = rollouts.create(
        cloud.context, release="digits@1", cohort=Cohort(), spec=spec, start=True, by="op"
    )
    with ThreadPoolExecutor(DEVICES) as pool:
        list(pool.map(lambda device: talk(cloud, device), devices))
    rollouts.tick(cloud.context)

    with cloud.context.read() as session:
        found = views.rollout(session, rollout)
        assert (found.line.state, found.line.counts) == ("succeeded", {"committed": DEVICES})
        for device in devices:
            seen = views.device(session, device.name)
            assert seen.missing == 0
            assert len(seen.windows) == WINDOWS
        assert chain.verify(Audit(session).all()).intact


def test_two_clouds_take_each_due_step_once(cloud: Cloud) -> None:
    """Two tickers on one registry: the soak ends once, the next wave is assigned once."""
    cloud.release()
    devices = [clouds.enrol(cloud, name) for name in ("a", "b")]
    for device in devices:
        device.connect()
    spec = RolloutSpec(waves=[50.0, 100.0], soak_s=10.0)
    rollout = rollouts.create(
        cloud.context, release="digits@1", cohort=Cohort(), spec=spec, start=True, by="op"
    )
    devices[0].update()
    before = devices[1].counter
    cloud.clock.now += 11
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: rollouts.tick(cloud.context), range(8)))
    devices[1].fetch()
    assert devices[1].counter == before + 1
    with cloud.context.read() as session:
        codes = [step.code for step in views.rollout(session, rollout).steps]
    assert codes.count("wave.passed") == 1
