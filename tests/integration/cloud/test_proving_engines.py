"""A real engine from the real compiler: unproven beside its fallback, proven by a device's figures, then released."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import clouds, pushed_folders
from support.clouds import Cloud

from cloud.compiler_process import CompilerProcess, Progress, Request
from cloud.services import artifacts, cohorts, figures, proving, releases, views
from cloud.services.cohorts import Cohort
from cloud.worker.task import read_output
from fleet.wire.messages import RuntimeInfo

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

FIGURES = {
    "golden_cosine_min": 1.0, "golden_max_abs": 0.0, "latency_ms_p50": 0.1, "latency_ms_p95": 0.2,
    "peak_memory_mib": 100.0,
}  # fmt: skip


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = clouds.make(tmp_path / "data")
    made.publish_model()
    yield made
    made.context.engine.dispose()


def compiled(cloud: Cloud, folder: Path) -> dict[bool, views.ArtifactLine]:
    """What the compiler makes for rtx-ada, entered as a worker's result is; by whether it is the fallback."""
    measured = folder / "figures.json"
    figures.write(cloud.context, "digits", measured)
    out = folder / "out"
    request = Request(
        folder=pushed_folders.write(folder / "digits"), out=out, version="1", targets=("rtx-ada",),
        figures=measured,
    )  # fmt: skip

    async def ignore(_: Progress) -> None:
        return

    asyncio.run(CompilerProcess(request).run(ignore))
    handed = read_output(out)
    (target,) = handed.report["targets"]
    for file in handed.files:
        prepared = artifacts.prepare(
            cloud.context, file.read_bytes(), fallbacks=[target["fallback"]["sha256"]]
        )
        with cloud.context.unit() as unit:
            artifacts.enter(unit, prepared, model="digits", version="1", result=target)
    with cloud.context.read() as session:
        return {it.fallback: it for it in views.artifacts(session, "digits", "1")}


def test_the_fallback_is_released_until_a_device_has_proven_the_engine(
    cloud: Cloud, tmp_path: Path
) -> None:
    made = compiled(cloud, tmp_path)
    engine, fallback = made[False], made[True]
    assert (engine.status, engine.runtime) == ("unproven", "tensorrt-rtx")
    assert (fallback.status, fallback.runtime) == ("accepted", "onnxruntime")
    created = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert list(created.left_out) == ["rtx-ada"]
    runtimes = [RuntimeInfo(name=name, version="1.3.0") for name in ("onnxruntime", "tensorrt-rtx")]
    device = clouds.enrol(cloud, "bench", keys=True, hardware_class="rtx-ada", runtimes=runtimes)
    device.connect()

    def variant() -> str:
        with cloud.context.read() as session:
            (member,) = cohorts.resolve(session, Cohort(devices=["bench"]), "digits@1")
        return member.artifact.sha256 if member.artifact else ""

    assert variant() == fallback.sha256
    with cloud.context.unit() as unit:
        proving.name(unit, "bench", on=True, by="op")
    proving.prove(cloud.context, engine.sha256, by="ann")
    device.fetch()
    device.tell("measured", figures=FIGURES)
    assert releases.create(cloud.context, model="digits", version="1", by="ann").left_out == {}
    assert variant() == engine.sha256
