"""Worker processes: loading, crashes, hangs, and a hot swap that no client notices."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest
from support import artifacts, oip

from agent.errors import LoadError, RuntimeMissingError, WorkerLostError
from agent.serving import protocol
from agent.serving.listener import open_listener
from agent.serving.port import Worker, WorkerSpec
from agent.serving.workers import ProcessWorkers, Timeouts
from ota.errors import VerificationError

pytestmark = pytest.mark.agent
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[4]
INFER = "/v2/models/classify/infer"


@pytest.fixture(autouse=True)
def _plug_ins_can_be_imported(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))


def spec_of(folder: Path, version: str = "1", *, plug_in: str = "", **changes) -> WorkerSpec:
    """A saved artifact, as the daemon would name it."""
    path = folder / f"{version}.outrider"
    sha256, length = artifacts.save(artifacts.classify(version=version, **changes), path)
    return WorkerSpec(
        model="classify",
        release=f"classify@{version}",
        path=path,
        sha256=sha256,
        length_bytes=length,
        runtime_wrapper=f"support.plug_ins:{plug_in}" if plug_in else "",
    )


@contextlib.asynccontextmanager
async def started(spec: WorkerSpec, timeouts: Timeouts | None = None) -> AsyncIterator[Worker]:
    worker = await ProcessWorkers(timeouts).start(spec)
    try:
        yield worker
    finally:
        await worker.stop()


@contextlib.contextmanager
def listening():
    with contextlib.closing(open_listener()) as listener:
        yield listener


async def ask(listener: socket.socket, batch=None) -> oip.Answer:
    client = await oip.Client.connect(listener.getsockname())
    try:
        client.send(oip.infer(artifacts.images(1) if batch is None else batch))
        return await client.answer()
    finally:
        await client.close()


@pytest.mark.parametrize("file", ["classify.onnx", "classify.tflite", "classify_int8.tflite"])
def test_a_worker_loads_tests_serves_counts_and_ends(tmp_path: Path, file: str) -> None:
    if file.endswith("tflite"):
        pytest.importorskip("ai_edge_litert")
    path = tmp_path / "a.outrider"
    sha256, length = artifacts.save(artifacts.classify(file), path)
    spec = WorkerSpec(
        model="classify", release="classify@1", path=path, sha256=sha256, length_bytes=length
    )

    async def story() -> None:
        with listening() as listener:
            async with started(spec) as worker:
                outcome = await worker.self_test()
                assert outcome.passed, outcome.detail
                assert outcome.cosine_min > 0.99
                assert outcome.latency_ms_p50 > 0
                assert outcome.peak_memory_mib > 10
                await worker.promote(listener)
                answer = await ask(listener)
                assert answer.json["model_version"] == "1"
                figures = await worker.take_figures()
                assert figures.inferences == 1
                assert figures.features["input:image:mean"].count == 1
                await worker.drain()
                assert oip.is_listening(listener.getsockname())
                await worker.stop()
                assert await worker.wait_exit() == "exit 0"
                with pytest.raises(WorkerLostError, match="exit 0"):
                    await worker.self_test()

    asyncio.run(story())


def test_hot_swaps_under_load_fail_no_request(tmp_path: Path) -> None:
    """Clients keep connections or make new ones; versions swap four times, and one comes back."""
    stop = threading.Event()
    seen: list[str] = []
    failures: list[str] = []
    body = oip.infer_json(artifacts.images(1))

    def client(port: int, *, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not stop.is_set():
            try:
                headers = {} if keeps else {"connection": "close"}
                connection.request("POST", INFER, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    failures.append(f"{answer.status} {content!r}")
                else:
                    seen.append(msgspec.json.decode(content)["model_version"])
                if answer.will_close:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
        connection.close()

    async def story() -> None:
        with listening() as listener, contextlib.ExitStack() as stack:
            port = listener.getsockname()[1]
            async with (
                started(spec_of(tmp_path, "1")) as one,
                started(spec_of(tmp_path, "2")) as two,
            ):
                await one.promote(listener)
                threads = [
                    threading.Thread(target=client, args=(port,), kwargs={"keeps": i % 2 == 0})
                    for i in range(4)
                ]
                stack.callback(lambda: [thread.join() for thread in threads])
                stack.callback(stop.set)
                for thread in threads:
                    thread.start()
                for old, new, version in [(one, two, "2"), (two, one, "1")] * 2:
                    await new.promote(listener)
                    await old.drain()
                    at = len(seen)
                    await oip.until(lambda at=at, version=version: version in seen[at:] or failures)
                    await oip.until(lambda at=at: len(seen) > at + 40 or failures)
                    assert set(seen[-10:]) == {version}
                await asyncio.to_thread(lambda: (stop.set(), [t.join() for t in threads]))
                counted = [await worker.take_figures() for worker in (one, two)]
                assert sum(figures.inferences for figures in counted) == len(seen)

    asyncio.run(story())
    assert failures == []
    assert {"1", "2"} <= set(seen)


def test_a_native_crash_costs_the_candidate_only(tmp_path: Path) -> None:
    async def story() -> None:
        with listening() as listener:
            async with (
                started(spec_of(tmp_path, "1")) as incumbent,
                started(spec_of(tmp_path, "2", plug_in="segfault")) as candidate,
            ):
                await incumbent.promote(listener)
                with pytest.raises(WorkerLostError, match="signal 11"):
                    await candidate.self_test()
                assert await candidate.wait_exit() == "signal 11"
                assert (await ask(listener)).json["model_version"] == "1"

    asyncio.run(story())


def test_a_crash_while_serving_is_noticed_and_the_port_survives(tmp_path: Path) -> None:
    async def story() -> None:
        with listening() as listener:
            async with started(spec_of(tmp_path, "1", plug_in="segfault_on_large_batch")) as worker:
                await worker.promote(listener)
                noticed = asyncio.create_task(worker.wait_exit())
                with pytest.raises(EOFError):
                    await ask(listener, artifacts.images(13))
                assert await noticed == "signal 11"
                waiting = asyncio.create_task(ask(listener))  # refused by nobody: it waits
                async with started(spec_of(tmp_path, "2")) as successor:
                    await successor.promote(listener)
                    assert (await waiting).json["model_version"] == "2"

    asyncio.run(story())


def test_a_killed_worker_is_noticed(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(spec_of(tmp_path)) as worker:
            os.kill(worker.pid, signal.SIGKILL)
            assert await worker.wait_exit() == "signal 9"
            with pytest.raises(WorkerLostError, match="signal 9"):
                await worker.take_figures()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("plug_in", "told"),
    [("killed_at_load", "signal 9"), ("hang_at_load", "no answer to Load in 2 s")],
)
def test_loading_is_bounded(tmp_path: Path, plug_in: str, told: str) -> None:
    timeouts = Timeouts(load_s=2) if plug_in == "hang_at_load" else Timeouts()

    async def story() -> None:
        with pytest.raises(WorkerLostError, match=told):
            await ProcessWorkers(timeouts).start(spec_of(tmp_path, plug_in=plug_in))

    asyncio.run(story())
    assert not psutil.Process().children()


def test_a_hanging_self_test_is_bounded(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(spec_of(tmp_path, plug_in="hang"), Timeouts(self_test_s=0.5)) as worker:
            with pytest.raises(WorkerLostError, match="no answer to RunSelfTest"):
                await worker.self_test()

    asyncio.run(story())


def test_a_hanging_inference_is_noticed_and_others_go_on(tmp_path: Path) -> None:
    timeouts = Timeouts(heartbeat_s=0.1, inference_s=0.5)

    async def story() -> None:
        with listening() as bad, listening() as good:
            async with (
                started(spec_of(tmp_path, "1", plug_in="hang"), timeouts) as hanging,
                started(spec_of(tmp_path, "2"), timeouts) as healthy,
            ):
                await hanging.promote(bad)
                await healthy.promote(good)
                with pytest.raises(EOFError):
                    await ask(bad)
                assert "an inference had run for" in await hanging.wait_exit()
                assert (await ask(good)).status == 200

    asyncio.run(story())


def test_a_stopped_process_is_noticed(tmp_path: Path) -> None:
    timeouts = Timeouts(heartbeat_s=0.1, silent_s=0.5)

    async def story() -> None:
        async with started(spec_of(tmp_path), timeouts) as worker:
            os.kill(worker.pid, signal.SIGSTOP)
            assert "no answer to Ping" in await worker.wait_exit()

    asyncio.run(story())


def test_a_model_that_answers_wrongly_fails_its_self_test(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(spec_of(tmp_path, plug_in="wrong")) as worker:
            outcome = await worker.self_test()
            assert not outcome.passed
            assert "expected a cosine of at least 0.99" in outcome.detail

    asyncio.run(story())


@pytest.mark.parametrize(
    ("golden", "told"),
    [
        ({"golden_inputs": {}}, "expected golden vectors"),
        ({"golden_outputs": {}}, "expected golden vectors"),
        ({"golden_outputs": {"other": artifacts.images(1)}}, "output 'other'"),
    ],
)
def test_artifacts_that_cannot_be_tested_fail(tmp_path: Path, golden, told) -> None:
    async def story() -> None:
        async with started(spec_of(tmp_path, **golden)) as worker:
            outcome = await worker.self_test()
            assert not outcome.passed
            assert told in outcome.detail

    asyncio.run(story())


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"sha256": "0" * 64}, VerificationError, "sha256"),
        ({"length_bytes": 3}, VerificationError, "expected an artifact of 3 bytes"),
        ({"path": Path("/nowhere/a.outrider")}, LoadError, "/nowhere/a.outrider"),
        ({"runtime_wrapper": "no.such:thing"}, LoadError, "runtime_wrapper"),
        ({"runtime_wrapper": "support.plug_ins:refuse"}, LoadError, "this plug-in refuses"),
    ],
)
def test_what_cannot_be_loaded_says_why(tmp_path: Path, change, error, told) -> None:
    async def story() -> None:
        spec = msgspec.structs.replace(spec_of(tmp_path), **change)
        with pytest.raises(error, match=told):
            await ProcessWorkers().start(spec)

    asyncio.run(story())
    assert not psutil.Process().children()


def test_another_runtimes_artifact_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        with pytest.raises(RuntimeMissingError, match="abacus"):
            await ProcessWorkers().start(spec_of(tmp_path, runtime="abacus"))

    asyncio.run(story())


def test_features_that_the_model_does_not_have_are_refused(tmp_path: Path) -> None:
    feature = artifacts.classify().manifest.features[0]
    strange = msgspec.structs.replace(feature, name="input:nothing:mean")

    async def story() -> None:
        with pytest.raises(LoadError, match="input:nothing:mean"):
            await ProcessWorkers().start(spec_of(tmp_path, features=[strange]))

    asyncio.run(story())


def test_sigterm_ends_a_worker_after_its_answers(tmp_path: Path) -> None:
    async def story() -> None:
        with listening() as listener:
            async with started(spec_of(tmp_path, plug_in="slower")) as worker:
                await worker.promote(listener)
                client = await oip.Client.connect(listener.getsockname())
                client.send(oip.infer(artifacts.images(1)))
                busy_s = 0.0
                while not busy_s:  # the model takes 2 s
                    pong = await worker._ask(lambda i: protocol.Ping(id=i), protocol.Pong, 5.0)
                    busy_s = pong.busy_s
                os.kill(worker.pid, signal.SIGTERM)
                assert (await client.answer()).status == 200
                await client.close()
                assert await worker.wait_exit() == "exit 0"

    asyncio.run(story())


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch) -> None:
    for name in ("agent", "fleet", "numpy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('another package')")
    monkeypatch.chdir(tmp_path)

    async def story() -> None:
        async with started(spec_of(tmp_path)) as worker:
            assert (await worker.self_test()).passed

    asyncio.run(story())


def test_workers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    (tmp_path / "spec.json").write_bytes(msgspec.json.encode(spec, enc_hook=str))
    code = """
import asyncio, sys, msgspec
from pathlib import Path
from agent.serving.port import WorkerSpec
from agent.serving.workers import ProcessWorkers
async def main():
    data = Path(sys.argv[1]).read_bytes()
    spec = msgspec.json.decode(data, type=WorkerSpec, dec_hook=lambda kind, value: kind(value))
    worker = await ProcessWorkers().start(spec)
    print(worker.pid, flush=True)
    await worker.wait_exit()
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "spec.json")], stdout=subprocess.PIPE, text=True
    ) as daemon:
        assert daemon.stdout is not None
        worker = psutil.Process(int(daemon.stdout.readline()))
        assert worker.is_running()
        daemon.kill()
        psutil.wait_procs([worker], timeout=20)
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
