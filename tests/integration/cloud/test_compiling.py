"""The compiler in a process of its own, and the cloud's own worker, through failures and a killed cloud."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import job_cloud
from support.installation import eventually
from support.job_cloud import JobCloud

from cloud.compiler_process import CompilerProcess, Progress, Request
from cloud.errors import CompileError, CompilerDiedError


@pytest.fixture(scope="module")
def lasting(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    """One cloud for the file, which works on jobs itself and has no toolchain."""
    with job_cloud.start(template, tmp_path_factory.mktemp("jobs"), worker=True) as made:
        yield made


@pytest.fixture
def cloud(lasting: JobCloud) -> Iterator[JobCloud]:
    yield lasting
    lasting.tidy()


@pytest.mark.slow
def test_a_job_is_done_by_the_cloud_itself_and_can_be_released(cloud: JobCloud) -> None:
    done = cloud.wait(cloud.submit("onnx-cpu"), "done")
    assert done["progress"] == 1.0
    assert cloud.attempts(done["id"]) == [("cloud", "done")]
    assert cloud.entered(done) == ["onnx-cpu"]
    created = cloud.remote.post("/releases", {"model": "digits", "version": "1"})
    assert created["left_out"] == {}
    (artifact,) = cloud.remote.get("/artifacts")
    assert artifact["metric"]["value"] >= artifact["metric"]["reference"] - 0.05
    assert artifact["features"]


@pytest.mark.slow
def test_a_real_engine_is_unproven_and_its_fallback_is_released(cloud: JobCloud) -> None:
    cloud.wait(cloud.submit("rtx-ada"), "done")
    made = {
        it["fallback"]: it for it in cloud.remote.get("/artifacts") if it["target"] == "rtx-ada"
    }
    assert (made[False]["status"], made[False]["runtime"]) == ("unproven", "tensorrt-rtx")
    assert (made[True]["status"], made[True]["runtime"]) == ("accepted", "onnxruntime")
    created = cloud.remote.post("/releases", {"model": "digits", "version": "1"})
    assert list(created["left_out"]) == ["rtx-ada"]
    paths = {it["path"]: it["artifact"] for it in created["release"]["variants"]}
    assert paths["digits/1/rtx-ada-onnxruntime.outrider"] == made[True]["sha256"]


@pytest.mark.slow
def test_a_killed_cloud_takes_the_compiler_with_it_and_the_job_up_again(cloud: JobCloud) -> None:
    cloud.gate.touch()
    job = cloud.submit("cpu-x86-64")
    cloud.wait_until_compiling(job)
    compilers = psutil.Process(cloud.pid("cloud")).children(recursive=True)
    assert compilers
    cloud.kill("cloud")
    eventually(lambda: not any(it.is_running() for it in compilers), "the compiler is gone")
    cloud.gate.unlink()
    cloud.wait(job, "done")
    assert cloud.attempts(job) == [("cloud", "died"), ("cloud", "done")]


@pytest.mark.slow
def test_the_cloud_leaves_to_a_worker_what_that_can_do_better(cloud: JobCloud) -> None:
    cloud.gate.touch()
    cloud.worker("better")
    eventually(
        lambda: "better" in [it["name"] for it in cloud.remote.get("/workers")], "registered"
    )
    job = cloud.submit("onnx-cpu", "litert-cpu")
    eventually(lambda: len(cloud.attempts(job)) == 2, "both units are begun")
    by = {it["toolchain"]: it["worker"] for it in cloud.job(job)["units"]}
    assert by == {"onnx": "better", "litert": "cloud"}


FAILED = '{"error": {"message": "no calibration", "retryable": %s}}'


class Script(Request):
    """A request whose command line is another program."""

    code = ""

    def argv(self) -> list[str]:
        return [sys.executable, "-c", self.code]


@pytest.mark.parametrize(
    ("code", "message", "died"),
    [
        ("raise SystemExit(3)", "exit status 3", True),
        ("import os; os.kill(os.getpid(), 9)", "signal 9", True),
        ("print('last words'); raise SystemExit(1)", "last words", True),
        (f"print({FAILED!r} % 'false'); raise SystemExit(1)", "no calibr", False),
        (f"print({FAILED!r} % 'true'); raise SystemExit(1)", "no calibr", True),
        ("print('x' * 3_000_000); print('after'); raise SystemExit(1)", "after", True),
    ],
)
def test_whatever_the_compiler_does_is_an_error_of_ours(
    code: str, message: str, died: bool, tmp_path: Path
) -> None:
    request = Script(folder=tmp_path, out=tmp_path, version="1", targets=())
    object.__setattr__(request, "code", code)

    async def ignore(_: Progress) -> None:
        return

    process = CompilerProcess(request)
    with pytest.raises(CompileError, match=message) as caught:
        asyncio.run(process.run(ignore))
    assert isinstance(caught.value, CompilerDiedError) is died
    assert not died or message in process.log or "with" in str(caught.value)
