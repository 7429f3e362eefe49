"""TensorRT behind the runtime port, over fakes of TensorRT and CUDA; on a GPU where there is one."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.artifacts import MODELS, classify, images, probabilities, verified
from support.tensorrt import FAKES, PROFILES, VERSIONS, call, environment

from agent.errors import InferenceError, LoadError, RuntimeMissingError, TensorError
from agent.runtimes import registry, tensorrt_driver
from fleet.artifact.manifest import Payload
from fleet.artifact.package import Package
from ota.verify.artifact import VerifiedArtifact

pytestmark = pytest.mark.agent
OURS = ("tensorrt", "cuda", "pycuda")


@pytest.fixture(params=VERSIONS)
def fakes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The fake modules in this process, for each version; what was there before comes back."""
    before = {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] in OURS
    }
    for name in before:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(FAKES))
    for name, value in environment(request.param).items():
        monkeypatch.setenv(name, value)
    yield monkeypatch
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    sys.modules.update(before)


def engine_of(folder: Path, version: str) -> bytes:
    arguments = ("build", "--onnx", str(MODELS / "classify.onnx"), "--engine", "m.engine")
    built = call(folder, *arguments, env=environment(version), options={"profiles": PROFILES})
    assert built["ok"], built
    return (folder / "m.engine").read_bytes()


def artifact(engine: bytes, **changes: Any) -> VerifiedArtifact:
    content: Package = classify(runtime="tensorrt", **changes)
    payload = Payload(
        member="model.engine", sha256=hashlib.sha256(engine).hexdigest(), size_bytes=len(engine)
    )
    manifest = msgspec.structs.replace(content.manifest, payload=payload)
    return verified(msgspec.structs.replace(content, payload=engine, manifest=manifest))


@pytest.fixture
def engine(fakes: Any, request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    return engine_of(tmp_path, request.node.callspec.params["fakes"])


@pytest.mark.parametrize("integrated", ["0", "1"])
@pytest.mark.parametrize("package", ["cuda-python", "pycuda"])
def test_answers_as_the_model_does(fakes: Any, engine: bytes, package: str, integrated: str):
    fakes.setenv("FAKE_CUDA_INTEGRATED", integrated)
    if package == "pycuda":
        fakes.setitem(sys.modules, "cuda.bindings.runtime", None)
        fakes.setitem(sys.modules, "cuda.cudart", None)
    runtime = registry.open_runtime(artifact(engine))
    for batch in (8, 1, 3):
        found = runtime.run({"image": images(batch, seed=batch)})["probs"]
        np.testing.assert_allclose(found, probabilities(images(batch, seed=batch)), atol=1e-5)
    runtime.close()
    if package == "cuda-python":
        live = importlib.import_module("cuda.bindings.runtime").live
        assert set(live.values()) == {0}, "everything was given back"


def test_a_batch_beyond_the_profile_is_the_callers_error(engine: bytes):
    runtime = registry.open_runtime(artifact(engine))
    with pytest.raises(
        TensorError, match=r"expected a shape from \[1, 3, 8, 8\] to \[8, 3, 8, 8\]"
    ):
        runtime.run({"image": images(9)})
    with pytest.raises(TensorError, match="batch of at least 1"):
        runtime.run({"image": images(0)})
    assert runtime.run({"image": images(2)})["probs"].shape == (2, 4)
    runtime.close()


def test_failures_are_said(fakes: Any, engine: bytes):
    runtime = registry.open_runtime(artifact(engine))
    fakes.setenv("FAKE_TENSORRT_DOES", "not_executed")
    with pytest.raises(InferenceError, match="could not be asked to execute"):
        runtime.run({"image": images(1)})
    fakes.setenv("FAKE_TENSORRT_DOES", "")
    fakes.setenv("FAKE_CUDA_FAILS", "cudaMalloc")
    with pytest.raises(InferenceError, match="cudaMalloc failed: CUDA error 2: out of memory"):
        runtime.run({"image": images(8)})
    fakes.setenv("FAKE_CUDA_FAILS", "")
    assert runtime.run({"image": images(8)})["probs"].shape == (8, 4)
    runtime.close()


def test_what_cannot_be_loaded_is_said(fakes: Any, engine: bytes):
    with pytest.raises(LoadError, match=r"magic tag.*an engine runs only with the TensorRT"):
        registry.open_runtime(artifact(b"junk"))
    header = b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + b"\x01\x00\x00\x00"
    with pytest.raises(LoadError, match="a program for the host"):
        registry.open_runtime(artifact(engine + header))
    with pytest.raises(LoadError, match="what this device has built"):
        registry.open_runtime(verified(classify(runtime="tensorrt")))
    fakes.setenv("FAKE_TENSORRT_DOES", "no_context")
    with pytest.raises(LoadError, match="made no execution context"):
        registry.open_runtime(artifact(engine))
    fakes.setenv("FAKE_TENSORRT_DOES", "")
    fakes.setenv("FAKE_GPU", '{"name": "another"}')
    with pytest.raises(LoadError, match="version or device differs"):
        registry.open_runtime(artifact(engine))


def test_without_cuda_it_says_so(fakes: Any, engine: bytes):
    for name in ("cuda.bindings.runtime", "cuda.cudart", "pycuda.driver"):
        fakes.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeMissingError, match="expected cuda-python or pycuda, found neither"):
        registry.open_runtime(artifact(engine))
    fakes.setenv("FAKE_GPU", "")
    with pytest.raises(RuntimeMissingError, match="expected a CUDA driver"):
        registry.open_runtime(artifact(engine))


def test_the_report_says_what_is_missing(fakes: Any):
    found = {info.name: info for info in registry.available()}
    assert found["tensorrt"].available
    fakes.setattr(registry, "_installed", lambda module: module == "tensorrt")
    found = {info.name: info for info in registry.available()}
    assert "cuda-python or pycuda" in found["tensorrt"].reason
    fakes.setattr(registry, "_installed", lambda _module: False)
    found = {info.name: info for info in registry.available()}
    assert "JetPack" in found["tensorrt"].reason


def _no_gpu() -> str:
    device, problem = tensorrt_driver.gpu()
    modules = [registry._installed(name) for name in ("tensorrt", "tensorrt_rtx")]
    if device is None:
        return f"no CUDA device: {problem}"
    return "" if any(modules) else "a CUDA device, but no TensorRT"


@pytest.mark.skipif(bool(_no_gpu()), reason=_no_gpu() or "a GPU")
def test_builds_and_runs_on_the_gpu_at_hand(tmp_path: Path):
    module = tensorrt_driver.library().__name__
    arguments = ("build", "--onnx", str(MODELS / "classify.onnx"), "--engine", "m.engine")
    options = {"module": module, "profiles": PROFILES}
    built = call(tmp_path, *arguments, env={}, options=options)
    assert built["ok"], built
    runtime = registry.open_runtime(artifact((tmp_path / "m.engine").read_bytes()))
    found = runtime.run({"image": images(8)})["probs"]
    np.testing.assert_allclose(found, probabilities(images(8)), atol=1e-2)
    runtime.close()
    inspected = call(
        tmp_path, "inspect", "--engine", "m.engine", env={}, options={"module": module}
    )
    assert inspected["layer_information"]
