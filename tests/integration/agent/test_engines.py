"""Building, keeping and attesting engines: the driver in real processes, over a fake TensorRT and a fake GPU."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support import artifacts
from support.artifacts import MODELS, save, to_be_built, verified
from support.tensorrt import FAKES, ORIN, PROFILES, environment

from agent.adapters.builder import BuildOptions, BuiltEngine, EngineBuilder
from agent.adapters.engines import Engines, profiles_of, read
from agent.errors import (
    BuildLostError,
    BuildMemoryError,
    BuildTimeoutError,
    DiskError,
    EngineError,
    EngineMissingError,
    RuntimeMissingError,
)
from agent.runtimes import tensorrt_driver
from agent.serving.port import WorkerSpec, attestation_of
from agent.serving.workers import ProcessWorkers
from fleet.wire import envelope
from ota.errors import MismatchError, ThresholdError, VerificationError
from ota.verify import artifact as verify
from ota.verify import engine as attestation

pytestmark = pytest.mark.agent
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]
KEY = ec.generate_private_key(ec.SECP256R1())
OPTIONS = BuildOptions(profiles=PROFILES, memory_floor_mib=16, timeout_s=60.0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what child processes find as TensorRT and as a GPU."""

    def choose(**how: Any) -> None:
        for name, value in environment(**how).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKES), str(ROOT)]))

    choose()
    return choose


def run(work: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await work

    return asyncio.run(main())


def build(
    folder: Path, options: BuildOptions = OPTIONS, told: list[Any] | None = None
) -> BuiltEngine:
    made = EngineBuilder(folder).build(
        MODELS / "classify.onnx",
        folder / "made.engine",
        options,
        lambda *said: told.append(said) if told is not None else None,
    )
    found: BuiltEngine = run(made)
    return found


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- the builder ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["10.3.0", "11.0.0.114"])
def test_builds_in_a_process_and_tells_progress(
    tmp_path: Path, fake: Callable[..., None], version: str
):
    fake(version=version, does="slow")
    told: list[Any] = []
    made = build(tmp_path, told=told)
    assert tensorrt_driver._digest((tmp_path / "made.engine").read_bytes()) == made.sha256
    assert made.environment["version"] == version
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 3
    assert ("Timing tactics") in {message for _, message in told}
    assert left(tmp_path) == ["made.engine"]


@pytest.mark.parametrize(
    ("does", "error", "words"),
    [
        ("none", EngineError, "Could not find any implementation"),
        ("host_code", EngineError, "a program for the host"),
        ("crash", BuildLostError, "ended with status -6 and no answer"),
    ],
)
def test_a_build_that_fails_leaves_nothing(
    tmp_path: Path, fake: Callable[..., None], does: str, error: type[Exception], words: str
):
    fake(does=does)
    with pytest.raises(error, match=words):
        build(tmp_path)
    assert left(tmp_path) == []


def test_a_build_that_hangs_is_ended_on_time(tmp_path: Path, fake: Callable[..., None]):
    fake(does="hang")
    with pytest.raises(BuildTimeoutError, match="within 3 s"):
        build(tmp_path, msgspec.structs.replace(OPTIONS, timeout_s=3.0))
    assert left(tmp_path) == []


def test_too_little_memory_is_said_before_a_build_begins(tmp_path: Path, fake: Callable[..., None]):
    with pytest.raises(BuildMemoryError, match="to begin a build, found"):
        build(tmp_path, msgspec.structs.replace(OPTIONS, memory_floor_mib=1 << 30))
    assert BuildMemoryError.retryable


def test_memory_that_runs_out_ends_a_build(
    tmp_path: Path, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    fake(does="hungry")
    real, start_mib = tensorrt_driver.available_mib, tensorrt_driver.available_mib()
    # What is free falls as the child really takes memory; the floor is 200 MiB below what there is now.
    options = msgspec.structs.replace(OPTIONS, memory_floor_mib=max(start_mib - 200, 1))
    monkeypatch.setattr(tensorrt_driver, "available_mib", lambda: min(real(), start_mib))
    with pytest.raises(BuildMemoryError, match="MiB of free memory"):
        build(tmp_path, options)
    assert left(tmp_path) == []


def test_a_killed_build_is_most_likely_out_of_memory(tmp_path: Path, fake: Callable[..., None]):
    fake(does="slow")

    async def main() -> None:
        task = asyncio.create_task(
            EngineBuilder(tmp_path).build(
                MODELS / "classify.onnx", tmp_path / "made.engine", OPTIONS, lambda *_: None
            )
        )
        child = await _child(task, "model.engine")
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(BuildMemoryError, match="the system killed the build"):
            await task

    asyncio.run(main())
    assert left(tmp_path) == []


def test_a_build_gives_way_and_dies_first_and_when_cancelled(
    tmp_path: Path, fake: Callable[..., None]
):
    fake(does="slow")

    async def main() -> None:
        task = asyncio.create_task(
            EngineBuilder(tmp_path).build(
                MODELS / "classify.onnx", tmp_path / "made.engine", OPTIONS, lambda *_: None
            )
        )
        child = await _child(task, "model.engine")
        assert child.nice() >= 10
        assert _oom_score(child.pid) == 900
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not psutil.pid_exists(child.pid)

    asyncio.run(main())
    assert left(tmp_path) == []


def _oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def _child(task: asyncio.Task[Any], argument: str) -> psutil.Process:
    """The driver's process, once it is the driver."""
    while not task.done():
        for child in psutil.Process().children(recursive=True):
            try:
                line = child.cmdline()
            except psutil.Error:
                continue
            if any(argument in part for part in line) and "-c" not in line[:2]:
                return child
        await asyncio.sleep(0.01)
    raise AssertionError(task.result())


JUNK = {
    "no answer": "",
    "junk": "open(answer, 'w').write('{{{')",
    "a list": "open(answer, 'w').write('[1]')",
    "no engine": 'open(answer, \'w\').write(\'{"ok": true, "sha256": "00"}\')',
    "another engine": "open(answer, 'w').write('{\"ok\": true, \"sha256\": \"00\"}'); open(engine, 'w').write('x')",
    "an empty engine": "open(answer, 'w').write('{\"ok\": true}'); open(engine, 'w')",
}


@pytest.mark.parametrize("what", JUNK)
def test_status_0_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str):
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys; a = sys.argv; answer = a[a.index('--answer') + 1]; engine = a[a.index('--engine') + 1]\n"
        + JUNK[what]
    )
    monkeypatch.setattr("agent.adapters.builder.DRIVER", script)
    with pytest.raises(BuildLostError):
        build(tmp_path)
    assert left(tmp_path) == ["driver.py"]


def test_without_a_gpu_or_tensorrt_it_is_missing(
    tmp_path: Path, fake: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    fake(gpu=None)
    with pytest.raises(RuntimeMissingError, match="expected a CUDA device"):
        run(EngineBuilder(tmp_path).probe())
    with pytest.raises(RuntimeMissingError, match="expected a CUDA device"):
        build(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(RuntimeMissingError, match="expected TensorRT's Python module"):
        run(EngineBuilder(tmp_path).probe())


# --- the cache -----------------------------------------------------------------------------------------


def engines(
    folder: Path, *, max_bytes: int = 1 << 30, key: ec.EllipticCurvePrivateKey = KEY
) -> Engines:
    return Engines(
        folder,
        EngineBuilder(folder),
        signer=envelope.signer(key),
        public=key.public_key(),
        options=BuildOptions(memory_floor_mib=16, timeout_s=60.0),
        max_bytes=max_bytes,
    )


def make(cache: Engines, source: Any = None, keep: tuple[str, ...] = ()) -> Any:
    return run(cache.make(source or verified(to_be_built()), keep, lambda *_: None))


def payload_of(source: Any) -> str:
    return str(source.package.manifest.payload.sha256)


def test_an_engine_is_built_once_and_attested(tmp_path: Path, fake: Callable[..., None]):
    cache, source = engines(tmp_path), verified(to_be_built())
    first, again = make(cache, source), make(cache, source)
    assert (first.cached, again.cached) == (False, True)
    assert first.sha256 == again.sha256
    assert "TensorRT 10.3.0 on Orin" in first.detail
    assert first.figures["engine_build_s"] >= 0
    signed = attestation_of(cache.path(first.sha256)).read_bytes()
    keys = {envelope.key_id(KEY.public_key()): KEY.public_key()}
    said = attestation.verify(
        signed, keys, engine_sha256=first.sha256, payload_sha256=payload_of(source)
    )
    assert said.predicate["runDetails"]["builder"]["version"]["compute_capability"] == "8.7"
    assert said.predicate["buildDefinition"]["externalParameters"]["profiles"] == {
        "image": [[1, 3, 8, 8], [1, 3, 8, 8], [8, 3, 8, 8]]
    }
    current = run(cache.current({payload_of(source): first.sha256}))
    assert current == ({payload_of(source): first.sha256}, "")


@pytest.mark.parametrize(
    "change",
    [
        {"version": "11.0.0.114"},
        {"gpu": {**ORIN, "driver": 12080}},
        {"gpu": {**ORIN, "name": "Orin NX"}},
        {"gpu": {**ORIN, "capability": [8, 9]}},
    ],
    ids=str,
)
def test_a_changed_system_builds_anew(tmp_path: Path, fake: Callable[..., None], change: dict):
    cache, source = engines(tmp_path), verified(to_be_built())
    first = make(cache, source)
    fake(**change)
    assert run(cache.current({payload_of(source): first.sha256})) == ({}, "")
    assert make(cache, source).cached is False


def test_without_a_gpu_what_is_attested_holds_and_it_is_said(
    tmp_path: Path, fake: Callable[..., None]
):
    cache, source = engines(tmp_path), verified(to_be_built())
    assert run(cache.current({})) == ({}, "")
    made = make(cache, source)
    fake(gpu=None)
    wanted = {payload_of(source): made.sha256}
    held, problem = run(cache.current({**wanted, "0" * 64: "1" * 64}))
    assert held == wanted
    assert "CUDA device" in problem


def test_other_golden_shapes_are_another_engine(tmp_path: Path, fake: Callable[..., None]):
    cache = engines(tmp_path)
    first = make(cache)
    fewer = to_be_built(golden_inputs={"image": artifacts.images(2)})
    assert profiles_of(fewer)["image"][-1] == [2, 3, 8, 8]
    assert make(cache, verified(fewer)).cached is False
    assert make(cache).sha256 == first.sha256


@pytest.mark.parametrize("what", ["engine", "attestation", "gone", "another key"])
def test_what_does_not_hold_is_built_anew(tmp_path: Path, fake: Callable[..., None], what: str):
    cache, source = engines(tmp_path), verified(to_be_built())
    first = make(cache, source)
    path = cache.path(first.sha256)
    if what == "engine":
        path.write_bytes(path.read_bytes() + b"x")
    elif what == "attestation":
        signed = json.loads(attestation_of(path).read_bytes())
        signed["signatures"][0]["sig"] = "AAAA"
        attestation_of(path).write_text(json.dumps(signed))
    elif what == "gone":
        attestation_of(path).unlink()
    else:
        cache = engines(tmp_path, key=ec.generate_private_key(ec.SECP256R1()))
    assert run(cache.current({payload_of(source): first.sha256})) == ({}, "")
    assert make(cache, source).cached is False


def test_the_folder_is_bounded_and_what_is_in_use_stays(tmp_path: Path, fake: Callable[..., None]):
    cache = engines(tmp_path, max_bytes=1)
    used = make(cache)
    other = make(
        cache, verified(to_be_built(golden_inputs={"image": artifacts.images(2)})), (used.sha256,)
    )
    third = make(
        cache, verified(to_be_built(golden_inputs={"image": artifacts.images(3)})), (used.sha256,)
    )
    held = {path.stem for path in tmp_path.glob("*.engine")}
    assert held == {used.sha256, third.sha256}
    assert not attestation_of(cache.path(other.sha256)).exists()


def test_what_an_interrupted_build_left_is_removed(tmp_path: Path, fake: Callable[..., None]):
    for name in ("build-x", "source-y", "probe-z"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.engine").touch()
    (tmp_path / f"{'0' * 64}.engine").touch()
    engines(tmp_path)
    assert left(tmp_path) == []


def test_a_killed_daemon_takes_its_build_along(tmp_path: Path, fake: Callable[..., None]):
    fake(does="slow")
    script = (
        "import asyncio, sys; from pathlib import Path; from agent.adapters.builder import *\n"
        "p = {'image': [[1,3,8,8],[1,3,8,8],[8,3,8,8]]}; f = Path(sys.argv[1])\n"
        "asyncio.run(EngineBuilder(f).build(Path(sys.argv[2]), f / 'm.engine', "
        "BuildOptions(profiles=p, memory_floor_mib=1), lambda *s: print(*s, flush=True)))"
    )
    daemon = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(MODELS / "classify.onnx")],
        stdout=subprocess.PIPE,
    )
    assert daemon.stdout is not None
    with daemon.stdout:
        assert daemon.stdout.readline(), "it builds"
        (child,) = psutil.Process(daemon.pid).children()
        daemon.kill()
        daemon.wait()
    child.wait(10)
    assert not child.is_running()
    assert not (tmp_path / "m.engine").exists()


# --- running what was built ------------------------------------------------------------------------------


def test_a_worker_runs_an_attested_engine_and_no_other(tmp_path: Path, fake: Callable[..., None]):
    file = tmp_path / "classify.outrider"
    sha256, length = save(to_be_built(), file)
    source = read(file, sha256=sha256, length_bytes=length)
    cache = engines(tmp_path / "engines")
    made = make(cache, source)
    pem = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    spec = WorkerSpec(
        model="classify", release="classify@1", path=file, sha256=sha256, length_bytes=length,
        engine=cache.path(made.sha256), device_key=pem,
    )  # fmt: skip

    async def test(one: WorkerSpec) -> Any:
        worker = await ProcessWorkers().start(one)
        try:
            return await worker.self_test()
        finally:
            await worker.stop()

    assert run(test(spec)).passed
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    for wrong in (
        msgspec.structs.replace(spec, device_key=other),
        msgspec.structs.replace(spec, device_key=b"junk"),
        msgspec.structs.replace(spec, engine=tmp_path / "absent.engine"),
    ):
        with pytest.raises(EngineMissingError, match="it is built again"):
            run(test(wrong))


def test_from_device_holds_engine_source_and_signature_together(
    tmp_path: Path, fake: Callable[..., None]
):
    cache, source = engines(tmp_path), verified(to_be_built())
    made = make(cache, source)
    engine = cache.path(made.sha256).read_bytes()
    signed = attestation_of(cache.path(made.sha256)).read_bytes()
    keys = {envelope.key_id(KEY.public_key()): KEY.public_key()}
    opened = verify.from_device(source, engine, attestation=signed, keys=keys)
    assert opened.provenance == "device"
    assert opened.package.payload == engine
    assert opened.package.manifest.payload.member == "model.engine"
    assert opened.sha256 == source.sha256
    with pytest.raises(MismatchError):
        verify.from_device(source, engine + b"x", attestation=signed, keys=keys)
    other = verified(artifacts.classify("identity.onnx"))
    with pytest.raises(MismatchError, match="expected an engine of the payload"):
        verify.from_device(other, engine, attestation=signed, keys=keys)
    with pytest.raises(ThresholdError):
        verify.from_device(source, engine, attestation=signed, keys={})
    with pytest.raises(VerificationError):
        verify.from_device(source, engine, attestation=b"{}", keys=keys)


def test_an_artifact_that_is_another_is_not_built(tmp_path: Path):
    file = tmp_path / "a.outrider"
    sha256, length = save(to_be_built(), file)
    with pytest.raises(VerificationError):
        read(file, sha256="0" * 64, length_bytes=length)
    with pytest.raises(DiskError, match="found no file"):
        read(tmp_path / "absent", sha256=sha256, length_bytes=length)
