"""Compile jobs with the real compiler in a process of its own, through failures and a killed cloud."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import clouds, pushed_folders
from support.clouds import Cloud
from support.installation import eventually

from cloud import context as contexts
from cloud.compiler_process import CompilerProcess, Progress, Request
from cloud.compiling import CompileRunner
from cloud.errors import CompileError
from cloud.services import cohorts, jobs, models, proving, releases, views
from cloud.services.cohorts import Cohort
from fleet.wire.messages import RuntimeInfo

CHILD = """
import asyncio, sys
from pathlib import Path
from cloud import context, settings
from cloud.compiling import CompileRunner

async def main():
    CompileRunner(context.build(settings.load(Path(sys.argv[1]))))
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    data = tmp_path / "data"
    made = clouds.make(data, url=f"sqlite:///{data / 'registry.sqlite'}")
    archive = tmp_path / "digits.zip"
    archive.write_bytes(pushed_folders.packed(pushed_folders.write(tmp_path / "digits")))
    models.push(made.context, archive, by="ann")
    yield made
    made.context.engine.dispose()


def submit(cloud: Cloud, *targets: str) -> str:
    return jobs.submit(cloud.context, model="digits", version="1", targets=targets, by="ann").id


def job(cloud: Cloud, job_id: str) -> views.JobLine:
    with cloud.context.read() as session:
        return views.job(session, job_id)


def work_off(cloud: Cloud, *job_ids: str) -> None:
    async def run() -> None:
        runner = CompileRunner(cloud.context)
        try:
            async with asyncio.timeout(300):
                while any(job(cloud, each).finished_at is None for each in job_ids):
                    assert runner.running
                    await asyncio.sleep(0.05)
        finally:
            await runner.stop()

    asyncio.run(run())


def test_a_job_ends_with_an_artifact_that_can_be_released(cloud: Cloud) -> None:
    job_id = submit(cloud, "onnx-cpu")
    cloud.notes.clear()
    work_off(cloud, job_id)
    done = job(cloud, job_id)
    assert (done.state, done.progress) == ("done", 1.0), done.message
    assert done.report["targets"][0]["status"] == "accepted"
    assert sum(note.topic == "job" for note in cloud.notes) > 3, "progress is told as it comes"
    created = releases.create(cloud.context, model="digits", version="1", by="ann")
    assert created.left_out == {}
    with cloud.context.read() as session:
        (artifact,) = views.artifacts(session, "digits", "1")
    assert artifact.metric["value"] >= artifact.metric["reference"] - 0.05
    assert artifact.features
    assert cloud.context.blobs.size(artifact.sha256) == artifact.size_bytes


@pytest.mark.slow
def test_a_real_engine_is_unproven_its_fallback_is_released_and_promotion_adds_it(
    cloud: Cloud,
) -> None:
    work_off(cloud, submit(cloud, "rtx-ada"))
    with cloud.context.read() as session:
        found = {
            artifact.fallback: artifact for artifact in views.artifacts(session, "digits", "1")
        }
    engine, fallback = found[False], found[True]
    assert (engine.status, engine.runtime) == ("unproven", "tensorrt-rtx")
    assert (fallback.status, fallback.runtime, fallback.target) == ("accepted", "onnxruntime", "rtx-ada")  # fmt: skip
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
    figures = {
        "golden_cosine_min": 1.0, "golden_max_abs": 0.0, "latency_ms_p50": 0.1,
        "latency_ms_p95": 0.2, "peak_memory_mib": 100.0,
    }  # fmt: skip
    device.tell("measured", figures=figures)
    assert releases.create(cloud.context, model="digits", version="1", by="ann").left_out == {}
    assert variant() == engine.sha256


def test_a_job_that_cannot_be_done_says_why_and_the_next_one_goes_on(cloud: Cloud) -> None:
    bad, good = submit(cloud, "no-such-target"), submit(cloud, "onnx-cpu")
    work_off(cloud, bad, good)
    assert job(cloud, bad).state == "failed"
    assert "no-such-target" in job(cloud, bad).message
    assert job(cloud, good).state == "done"


def test_a_killed_cloud_takes_the_compiler_with_it_and_the_job_up_again(cloud: Cloud) -> None:
    job_id = submit(cloud, "onnx-cpu")
    command = [sys.executable, "-c", CHILD, str(cloud.context.settings.data)]
    child = subprocess.Popen(command, start_new_session=True)
    try:
        eventually(lambda: job(cloud, job_id).progress > 0, "the job has begun", within_s=60)
        compiler = psutil.Process(child.pid).children(recursive=True)
        assert compiler
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    eventually(lambda: not any(each.is_running() for each in compiler), "the compiler is gone")
    assert job(cloud, job_id).state == "running", "nobody could tell"
    work_off(cloud, job_id)
    assert job(cloud, job_id).state == "done"


def test_a_job_that_kills_the_cloud_each_time_is_given_up(cloud: Cloud) -> None:
    job_id = submit(cloud, "onnx-cpu")
    for _ in range(jobs.MAX_ATTEMPTS):
        taken = jobs.take(cloud.context)
        assert taken is not None
        assert jobs.requeue(cloud.context) == 1
    assert job(cloud, job_id).state == "failed"
    assert "died 3 times" in job(cloud, job_id).message
    assert jobs.take(cloud.context) is None


def test_what_a_late_runner_says_of_an_ended_job_changes_nothing(cloud: Cloud) -> None:
    job_id = submit(cloud, "onnx-cpu")
    jobs.take(cloud.context)
    jobs.fail(cloud.context, job_id, "first")
    jobs.fail(cloud.context, job_id, "second")
    jobs.advance(cloud.context, job_id, progress=0.5, message="on and on")
    jobs.finish(cloud.context, job_id, report={}, built=[])
    ended = job(cloud, job_id)
    assert (ended.state, ended.message, ended.progress) == ("failed", "first", 0.0)


class Script(Request):
    """A request whose command line is another program."""

    code = ""

    def argv(self) -> list[str]:
        return [sys.executable, "-c", self.code]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "signal 9"),
        ("print('last words'); raise SystemExit(1)", "last words"),
        ('print(\'{"error": {"message": "no calibration"}}\'); raise SystemExit(1)', "no calibr"),
        ("print('x' * 3_000_000); print('after'); raise SystemExit(1)", "after"),
    ],
)
def test_whatever_the_compiler_does_is_an_error_of_ours(
    code: str, message: str, tmp_path: Path
) -> None:
    request = Script(folder=tmp_path, out=tmp_path, version="1", targets=())
    object.__setattr__(request, "code", code)

    async def ignore(_: Progress) -> None:
        return

    with pytest.raises(CompileError, match=message):
        asyncio.run(CompilerProcess(request).run(ignore))


def test_the_context_of_an_installation_is_built_from_its_folder(cloud: Cloud) -> None:
    from cloud import settings

    built = contexts.build(settings.load(cloud.context.settings.data))
    try:
        with built.read() as session:
            assert [line.name for line in views.models(session)] == ["digits"]
    finally:
        built.engine.dispose()
