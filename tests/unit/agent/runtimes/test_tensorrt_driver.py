"""The driver as a device runs it, over TensorRT as each version spells it (see `support.fake_tensorrt`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.artifacts import MODELS
from support.tensorrt import DRIVER, ORIN, PROFILES, VERSIONS, call, environment

from agent.runtimes import tensorrt_driver as driver

pytestmark = pytest.mark.agent
CLASSIFY = str(MODELS / "classify.onnx")


def build(folder: Path, env: dict[str, str], **options: Any) -> dict[str, Any]:
    options = {"profiles": PROFILES, **options}
    return call(
        folder, "build", "--onnx", CLASSIFY, "--engine", "m.engine", env=env, options=options
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_builds_and_inspects_with_every_version(tmp_path: Path, version: str):
    env = environment(version)
    built = build(tmp_path, env, workspace_mib=64)
    assert built["ok"], built
    assert built["version"] == version
    assert built["environment"] == {
        "module": "tensorrt", "version": version, "device": "Orin", "compute_capability": "8.7",
        "cuda_driver": 12060, "l4t": "",
    }  # fmt: skip
    assert built["workspace_mib"] == 64
    assert built["inputs"] == [{"name": "image", "dtype": "float", "shape": [-1, 3, 8, 8]}]
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 1000
    inspected = call(tmp_path, "inspect", "--engine", "m.engine", env=env)
    assert inspected["tensors"][0]["profiles"] == [PROFILES["image"]]
    assert inspected["layer_information"] == [{"Name": "all of it"}]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.engine", "progress.json"]


def test_the_workspace_is_at_most_half_of_what_is_free(tmp_path: Path):
    env = environment(gpu={**ORIN, "free_mib": 100})
    assert build(tmp_path, env)["workspace_mib"] == 50
    assert build(tmp_path, env, workspace_mib=4096)["workspace_mib"] == 50


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("none", "build", "Could not find any implementation"),
        ("host_code", "host_code", "a program for the host at byte"),
    ],
)
def test_a_failed_build_says_why_and_leaves_nothing(
    tmp_path: Path, does: str, code: str, words: str
):
    answer = build(tmp_path, environment(does=does))
    assert (answer["ok"], answer["code"]) == (False, code)
    assert words in answer["error"]
    assert not (tmp_path / "m.engine").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"profiles": {"image": [[8, 3, 8, 8], [4, 3, 8, 8], [1, 3, 8, 8]]}}, "profile", "inconsistent"),
        ({"profiles": None}, "build", "no optimization profile"),
        ({"compute_capabilities": ["SM89"]}, "build", "CUDA initialization"),
        ({"memory_floor_mib": 1 << 30}, "memory", "expected 1073741824 MiB of free memory, found"),
        ({"module": "no_such_module"}, "module", "no_such_module"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], code: str, words: str):
    gpu = None if "compute_capabilities" in options else ORIN
    answer = build(tmp_path, environment(gpu=gpu), **options)
    assert (answer["ok"], answer["code"]) == (False, code), answer
    assert words in answer["error"]


def test_only_rtx_builds_for_other_devices(tmp_path: Path):
    answer = build(tmp_path, environment(), compute_capabilities=["SM89"])
    assert answer["code"] == "input"
    assert "only TensorRT-RTX" in answer["error"]


def test_a_model_that_cannot_be_parsed(tmp_path: Path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "empty.onnx").touch()
    for name, code in (("bad", "parse"), ("empty", "input"), ("absent", "input")):
        arguments = ("build", "--onnx", f"{name}.onnx", "--engine", "m.engine")
        answer = call(tmp_path, *arguments, env=environment())
        assert answer["code"] == code
    assert call(tmp_path, "build", env=environment())["code"] == "input"


def test_without_a_cuda_driver_nothing_crashes(tmp_path: Path):
    env = environment(gpu=None)
    answer = build(tmp_path, env)
    assert answer["code"] == "gpu"
    assert "libcuda.so.1" in answer["error"]
    probed = call(tmp_path, "probe", env=env)
    assert probed["gpu"] is None
    assert "libcuda.so.1" in probed["gpu_problem"]
    (tmp_path / "m.engine").write_bytes(b"ftrt")
    assert call(tmp_path, "inspect", "--engine", "m.engine", env=env)["code"] == "gpu"


def test_a_device_that_the_driver_cannot_use_is_said(tmp_path: Path):
    for gpu, words in (
        ({"init_error": 999}, "cuInit failed with CUDA error 999"),
        ({"count": 0}, "no device"),
    ):
        assert words in call(tmp_path, "probe", env=environment(gpu=gpu))["gpu_problem"]


def test_timings_are_kept_by_content(tmp_path: Path):
    first = build(tmp_path, environment(), timing_cache="t")
    again = build(tmp_path, environment(), timing_cache="t")
    other = build(tmp_path, environment("11.0.0.114"), timing_cache="t")
    assert [one["timings"]["loaded_bytes"] for one in (first, again, other)] == [0, 10, 0]
    kept = sorted((tmp_path / "t").iterdir())
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1])
    damaged = build(tmp_path, environment(), timing_cache="t")
    assert damaged["timings"]["loaded_bytes"] == 0, "a damaged file is measured anew"


def test_timings_that_tensorrt_refuses_are_begun_anew(tmp_path: Path):
    build(tmp_path, environment(), timing_cache="t")
    (path,) = (tmp_path / "t").iterdir()
    body = b"of another device"
    path.write_bytes(driver._digest(body).encode() + b"\n" + body)
    assert build(tmp_path, environment(), timing_cache="t")["timings"]["loaded_bytes"] == 0


def start(folder: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, str(DRIVER), "build", "--onnx", CLASSIFY, "--engine", "m.engine"]
    argv += [
        "--answer",
        "answer.json",
        "--options",
        json.dumps({"module": "tensorrt", "profiles": PROFILES}),
    ]
    return subprocess.Popen(
        argv,
        cwd=folder,
        env=environment(does="slow"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_progress(folder: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    while process.poll() is None:
        try:
            found: dict[str, Any] = json.loads((folder / "progress.json").read_text())
        except FileNotFoundError:
            continue
        if found["done"] > 0:
            return found
    raise AssertionError("the build ended by itself")


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_build_is_cancelled(tmp_path: Path, how: str):
    process = start(tmp_path)
    said = wait_for_progress(tmp_path, process)
    assert said["total"] == 1000
    assert said["message"] == "Timing tactics"
    if how == "file":
        (tmp_path / "cancel").touch()
    else:
        os.kill(process.pid, signal.SIGTERM)
    assert process.wait(60) == 1
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer == {"ok": False, "code": "cancelled", "error": "the build was cancelled"}
    assert not (tmp_path / "m.engine").exists()
    assert not list(tmp_path.glob("*.part"))


def header(machine: int) -> bytes:
    return (
        b"\x7fELF\x02\x01\x01"
        + bytes(11)
        + machine.to_bytes(2, "little")
        + (1).to_bytes(4, "little")
    )


def test_host_code_is_found_and_kernels_are_not():
    driver.refuse_host_code(
        b"ftrt" + header(190) + bytes(100) + header(190) + b"\x7fELF\x02\x01\x01"
    )
    for machine in (62, 183):
        with pytest.raises(driver.DriverError, match="at byte 50"):
            driver.refuse_host_code(
                b"ftrt" + header(190) + bytes(50 - 4 - 24) + header(machine) + bytes(9)
            )


def test_progress_never_falls_and_phases_may_interleave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    control = driver.Control()
    told: list[int] = []
    monkeypatch.setattr(control, "write", lambda done, _message: told.append(done))
    monkeypatch.setattr(driver, "_SAY_S", 0.0)
    control.phase_start("all", None, 2)
    control.phase_start("one", "all", 10)
    control.phase_start("other", "all", 4)
    for step in range(10):
        assert control.step_complete("one", step)
    control.phase_finish("one")
    control.step_complete("other", 0)
    control.step_complete("all", 0)
    control.phase_finish("other")
    control.phase_finish("never started")
    control.step_complete("all", 1)
    assert told == sorted(told)
    assert told[-1] == 999
