"""Real engines, built ahead of time by TensorRT-RTX with no GPU, through the driver that devices run."""

from __future__ import annotations

import _ctypes
import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.precisions import model

from agent.runtimes import tensorrt_driver
from compiler.errors import BuildError
from compiler.toolchains import catalog, driver, install

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

PROFILES = {"image": [[1, 3, 16, 16], [4, 3, 16, 16], [8, 3, 16, 16]]}
ALONE = (["SM86"], ["SM89"], ["SM120"])
PRECISIONS = {"fp32": "float", "fp16": "half", "int8": "int8"}


def build(precision: str, **options: Any) -> driver.Answer:
    options = {
        "compute_capabilities": ["SM89"],
        "workspace_mib": 256,
        "profiles": PROFILES,
        **options,
    }
    files = {"model.onnx": model(precision)}
    return driver.call(catalog.get("tensorrt-rtx"), "finish", files=files, options=options)


@pytest.mark.parametrize("capabilities", [*ALONE, ["SM86", "SM89", "SM120"]], ids="+".join)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_builds_every_precision_for_every_capability(
    precision: str, capabilities: list[str]
) -> None:
    answer = build(precision, compute_capabilities=capabilities)
    info, engine = answer.info, answer.files["model"]
    assert info["compute_capabilities"] == capabilities
    assert info["size_bytes"] == len(engine) > 10_000
    assert info["profiles"] == 1
    assert info["workspace_mib"] <= 256
    assert info["inputs"] == [{"name": "image", "dtype": "float", "shape": [-1, 3, 16, 16]}]
    assert info["outputs"][0]["name"] == "probs"
    assert info["precisions"].get(PRECISIONS[precision], 0) > 3
    tensorrt_driver.refuse_host_code(engine)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_network_has_the_precision_that_stands_in_the_file(precision: str) -> None:
    files = {"model.onnx": model(precision)}
    info = driver.call(catalog.get("tensorrt-rtx"), "inspect", files=files, options={}).info
    by_kind: dict[str, set[str]] = {}
    for layer in info["network"]:
        by_kind.setdefault(layer["kind"], set()).update(layer["outputs"])
    inside = "half" if precision == "fp16" else "float"
    assert by_kind["convolution"] == {inside}
    assert by_kind["softmax"] == {"float"}
    assert ("quantize" in by_kind) == (precision == "int8")
    if precision == "int8":
        assert by_kind["quantize"] == {"int8"}
    if precision == "fp16":
        assert by_kind["cast"] >= {"half", "float"}


def test_refusals_are_in_tensorrts_own_words() -> None:
    with pytest.raises(BuildError, match="no optimization profile has been defined"):
        build("fp32", profiles={})
    with pytest.raises(BuildError, match="refused the capability SM13"):
        build("fp32", compute_capabilities=["SM13"])
    with pytest.raises(BuildError, match="cannot parse the model"):
        driver.call(
            catalog.get("tensorrt-rtx"), "finish", files={"model.onnx": b"junk"},
            options={"compute_capabilities": ["SM89"]},
        )  # fmt: skip


@pytest.mark.skipif(tensorrt_driver.gpu()[0] is not None, reason="there is a CUDA device")
def test_without_a_device_a_capability_must_be_named() -> None:
    with pytest.raises(BuildError, match="expected a CUDA device to build for"):
        build("fp32", compute_capabilities=[])


def python() -> str:
    return str(install.python(catalog.get("tensorrt-rtx")))


def command(folder: Path, **options: Any) -> list[str]:
    (folder / "model.onnx").write_bytes(model("int8"))
    options = {"compute_capabilities": ["SM86", "SM89", "SM120"], "profiles": PROFILES, **options}
    argv = [
        python(),
        tensorrt_driver.__file__,
        "build",
        "--onnx",
        "model.onnx",
        "--engine",
        "m.engine",
    ]
    return [*argv, "--answer", "answer.json", "--options", json.dumps(options)]


def test_progress_is_told_and_timings_are_kept(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    answers = []
    for _ in range(2):
        process = subprocess.Popen(
            command(tmp_path, timing_cache="timings"),
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None:
            said = tmp_path / "progress.json"
            if said.exists():
                told.append(json.loads(said.read_text()))
        assert process.returncode == 0
        answers.append(json.loads((tmp_path / "answer.json").read_text()))
    assert [a["timings"]["loaded_bytes"] > 0 for a in answers] == [False, True]
    assert {said["total"] for said in told} == {1000}
    assert len({said["done"] for said in told}) > 1
    assert json.loads((tmp_path / "progress.json").read_text())["message"] == "built"


@pytest.mark.parametrize("how", ["file", "signal"])
def test_a_build_is_cancelled_and_leaves_no_engine(tmp_path: Path, how: str) -> None:
    process = subprocess.Popen(
        command(tmp_path), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (tmp_path / "progress.json").exists():
        pass
    if how == "file":
        (tmp_path / "cancel").touch()
    else:
        process.send_signal(signal.SIGTERM)
    process.wait(60)
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer == {"ok": False, "code": "cancelled", "error": "the build was cancelled"}
    assert not (tmp_path / "m.engine").exists()


def test_an_engine_that_carries_the_lean_runtime_is_refused(tmp_path: Path) -> None:
    """The lean runtime itself is not in the toolchain: any shared library of its name is embedded."""
    shutil.copyfile(_ctypes.__file__, tmp_path / "libnvinfer_lean.so.1")
    (tmp_path / "model.onnx").write_bytes(model("fp32"))
    script = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import driver, tensorrt_rtx as trt
from pathlib import Path
real = driver.set_capabilities
def compatible(trt, config, names, log):
    real(trt, config, names, log)
    config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
driver.set_capabilities = compatible
options = {{"compute_capabilities": ["SM89"], "profiles": {PROFILES!r}}}
def attempt():
    try:
        driver.build_engine(Path("model.onnx"), Path("m.engine"), options)
    except driver.DriverError as error:
        print(error.code, error)
attempt()
trt.IBuilderConfig.get_flag = lambda *_: False  # as if nobody had looked at the flag
attempt()
"""
    (tmp_path / "driver.py").write_text(Path(tensorrt_driver.__file__).read_text())
    done = subprocess.run(
        [python(), "-c", script],
        cwd=tmp_path, env={"LD_LIBRARY_PATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    by_flag, by_bytes = done.stdout.strip().splitlines()
    assert by_flag.startswith("host_code a version-compatible engine")
    assert by_bytes.startswith(
        "host_code expected an engine of kernels only, found a program for the host"
    )
    assert not (tmp_path / "m.engine").exists()


def test_every_name_that_the_driver_uses_is_in_tensorrt_rtx() -> None:
    from support.tensorrt_names import USED

    script = """
import json, sys, tensorrt_rtx as trt
used = json.loads(sys.argv[1])
print(json.dumps([[k, n] for k, n in used if not hasattr(trt if k == "module" else getattr(trt, k, None), n)]))
"""
    done = subprocess.run(
        [python(), "-c", script, json.dumps(USED)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
