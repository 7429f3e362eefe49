"""Workers as processes of their own on the real queue: shared, killed, cut off, poisoned."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import job_cloud
from support.installation import eventually
from support.job_cloud import JobCloud

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lasting(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobCloud]:
    """One cloud for the file: a test leaves it as it was."""
    with job_cloud.start(template, tmp_path_factory.mktemp("jobs")) as made:
        yield made


@pytest.fixture
def cloud(lasting: JobCloud) -> Iterator[JobCloud]:
    yield lasting
    lasting.tidy()


def actions(cloud: JobCloud) -> list[dict[str, Any]]:
    return list(cloud.remote.get("/audit", limit=1000))


def test_a_job_is_done_by_a_worker_elsewhere_and_says_by_whom(cloud: JobCloud) -> None:
    job = cloud.submit("onnx-cpu")
    assert "waiting for a worker with the toolchain onnx" in cloud.job(job)["units"][0]["message"]
    once = cloud.worker("gpu-box", "--once")
    done = cloud.wait(job, "done")
    assert once.process.wait(20) == 0, once.said
    (target,) = done["report"]["targets"]
    assert target["chosen"]["recipe"] == "onnx_fp32"
    assert target["compiled_by"]["worker"] == "gpu-box"
    assert target["compiled_by"]["host"]["cores"] == os.cpu_count()
    assert cloud.entered(done) == ["onnx-cpu"]
    finished = next(it for it in actions(cloud) if it["action"] == "compile.finish")
    assert finished["actor"] == "worker:gpu-box"
    assert '"cores"' in finished["details"]


def test_a_killed_workers_job_goes_to_another_one(cloud: JobCloud) -> None:
    cloud.gate.touch()
    first = cloud.worker("first")
    job = cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(job)
    compilers = cloud.compilers()
    assert compilers
    first.kill()
    eventually(lambda: not any(it.is_running() for it in compilers), "its compiler is gone too")
    cloud.worker("second")
    eventually(lambda: len(cloud.attempts(job)) == 2, "begun anew", 30)
    cloud.gate.unlink()
    done = cloud.wait(job, "done")
    assert cloud.attempts(job) == [("first", "died"), ("second", "done")]
    assert cloud.entered(done) == ["onnx-cpu"]


def test_two_workers_share_and_each_takes_what_it_can_do(cloud: JobCloud) -> None:
    cloud.gate.touch()
    onnx = cloud.submit("onnx-cpu", "cpu-arm64", "cpu-x86-64")
    cloud.worker("with-onnx", toolchains=("onnx",))
    cloud.worker("with-litert", "--toolchain", "litert", toolchains=("litert", "onnx"))
    eventually(lambda: len(cloud.attempts(onnx)) == 2, "both have begun", 30)
    assert {it["toolchain"]: it["worker"] for it in cloud.job(onnx)["units"]} == {
        "onnx": "with-onnx", "litert": "with-litert",
    }  # fmt: skip
    busy = {it["name"]: it["units"] for it in cloud.remote.get("/workers")}
    assert [len(busy["with-onnx"]), len(busy["with-litert"])] == [1, 1]
    cloud.gate.unlink()
    done = cloud.wait(onnx, "done", "failed", within_s=120)
    found = [(it["target"], it["compiled_by"]["worker"]) for it in done["report"]["targets"]]
    assert found == [
        ("onnx-cpu", "with-onnx"), ("cpu-arm64", "with-litert"), ("cpu-x86-64", "with-onnx"),
    ]  # fmt: skip


def test_a_model_that_kills_its_compiler_is_set_aside_with_every_last_word(cloud: JobCloud) -> None:
    cloud.poison.touch()
    cloud.worker("victim")
    job = cloud.submit("onnx-cpu")
    failed = cloud.wait(job, "failed", within_s=90)
    assert [it["state"] for it in failed["units"]] == ["set_aside"]
    assert "set aside after 3 attempts" in failed["message"]
    assert "signal 9" in failed["message"]
    log = cloud.remote.get(f"/jobs/{job}/log")
    assert [it["state"] for it in log] == ["failed"] * 3
    assert all("checking the model folder" in it["log"] for it in log)
    assert any(it["action"] == "compile.set_aside" for it in actions(cloud))
    cloud.poison.unlink()
    cloud.remote.post(f"/jobs/{job}/retry")
    assert cloud.wait(job, "done")["units"][0]["attempts"] == 4


def test_a_cancelled_jobs_compiler_ends_and_the_worker_takes_the_next(cloud: JobCloud) -> None:
    cloud.gate.touch()
    cloud.worker("only")
    job = cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(job)
    compilers = cloud.compilers()
    assert cloud.remote.post(f"/jobs/{job}/cancel")["state"] == "cancelled"
    eventually(lambda: not any(it.is_running() for it in compilers), "its compiler has ended")
    cloud.gate.unlink()
    assert cloud.wait(cloud.submit("onnx-cpu"), "done")["units"][0]["worker"] == "only"
    assert cloud.attempts(job) == [("only", "cancelled")]
    assert cloud.job(job)["state"] == "cancelled"


def test_a_worker_that_is_asked_to_stop_hands_its_job_back(cloud: JobCloud) -> None:
    cloud.gate.touch()
    leaving = cloud.worker("leaving", "--grace", "0s")
    job = cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(job)
    assert leaving.stop() == 0, leaving.said
    assert cloud.job(job)["state"] == "queued"
    cloud.worker("staying")
    cloud.gate.unlink()
    cloud.wait(job, "done")
    assert cloud.attempts(job) == [("leaving", "handed_back"), ("staying", "done")]


def test_a_worker_that_may_finish_does(cloud: JobCloud) -> None:
    cloud.gate.touch()
    leaving = cloud.worker("leaving", "--grace", "60s")
    job = cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(job)
    leaving.process.send_signal(signal.SIGTERM)
    eventually(lambda: "a job under way has 60 s" in leaving.said, "it has heard")
    cloud.gate.unlink()
    assert leaving.process.wait(60) == 0, leaving.said
    assert cloud.attempts(job) == [("leaving", "done")]


@pytest.mark.parametrize("who", ["broker", "cloud"])
def test_a_restart_of_the_broker_or_the_cloud_costs_nothing(cloud: JobCloud, who: str) -> None:
    cloud.gate.touch()
    cloud.worker("steady")
    running, waiting = cloud.submit("onnx-cpu"), cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(running)
    cloud.kill(who)
    cloud.gate.unlink()
    done = cloud.wait(running, "done")
    cloud.wait(waiting, "done")
    assert cloud.attempts(running) == [("steady", "done")], "it went on, and was not begun twice"
    assert cloud.entered(done) == ["onnx-cpu"]


def test_a_worker_that_cannot_be_heard_goes_on_and_hands_in_later(cloud: JobCloud) -> None:
    """The cloud and the broker stand still for longer than silence is borne."""
    cloud.gate.touch()
    cloud.worker("far")
    job = cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(job)
    compiler = cloud.compilers()[0]
    with cloud.standing_still("broker", "cloud"):
        threading.Event().wait(job_cloud.REDELIVER_S * 2)  # that long is what the test is about
    assert compiler.is_running(), "the compiler went on"
    cloud.gate.unlink()
    done = cloud.wait(job, "done")
    assert cloud.attempts(job)[-1] == ("far", "done")
    assert cloud.entered(done) == ["onnx-cpu"]


def test_a_restarted_worker_takes_its_job_up_at_once(cloud: JobCloud) -> None:
    cloud.gate.touch()
    first = cloud.worker("same")
    job = cloud.submit("onnx-cpu")
    cloud.wait_until_compiling(job)
    first.kill()
    cloud.worker("same")
    cloud.gate.unlink()
    cloud.wait(job, "done")
    assert cloud.attempts(job) == [("same", "died"), ("same", "done")]


def test_without_its_toolchain_a_worker_does_not_start(cloud: JobCloud) -> None:
    none = cloud.worker("none", toolchains=())
    assert none.process.wait(30) == 1
    assert "outrider toolchain install" in " ".join(none.said.split())
    other = cloud.worker("other", "--toolchain", "litert")
    assert other.process.wait(30) == 1
    assert "install litert" in " ".join(other.said.split())
    unknown = cloud.worker("unknown", "--toolchain", "gcc")
    assert unknown.process.wait(30) == 1
    assert "found 'gcc'" in " ".join(unknown.said.split())
