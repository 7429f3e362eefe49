"""Real toolchains: each backend builds, converts layouts faithfully, and is judged by what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import model_folders

from agent.runtimes import registry
from compiler.service import compile as compiling
from compiler.service.report import Report, Verdict
from compiler.toolchains import catalog, driver
from fleet.artifact import package
from fleet.artifact.preprocess import tensor_of
from ota.verify import artifact

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("toolchains")
    model_folders.write(place / "tiny")
    return place


@pytest.fixture(scope="module")
def report(place: Path) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTRIDER_CACHE", str(place / "cache"))
        patch.setenv("OUTRIDER_COMPILE_KEY", str(place / "key.pem"))
        return compiling.run(
            compiling.Request(
                folder=place / "tiny",
                targets=["litert-cpu", "onnx-cpu", "rtx-ada"],
                out=place / "out",
                calibrators=["minmax", "mse"],
            )
        )


LOCKED = [name for name in catalog.names() if catalog.get(name).supplied is None]


@pytest.mark.parametrize("name", LOCKED)
def test_every_driver_answers(name: str) -> None:
    assert driver.call(catalog.get(name), "probe", files={}, options={}).info["modules"]


def test_int8_keeps_the_metric_on_both_cpu_targets(report: Report) -> None:
    litert, onnx, _ = report.targets
    for target, recipe in ((litert, "litert_static_wi8_ai8"), (onnx, "qdq_static_u8s8_pc_rr")):
        assert target.status is Verdict.ACCEPTED
        variants = [c for c in target.candidates if c.recipe.startswith(f"{recipe}_m")]
        assert {c.calibrator for c in variants} == {"minmax", "mse"}
        for one in variants:
            quality = {g.name: g.passed for g in one.gates}
            assert quality["structure"]
            assert quality["parity"]
            assert quality["selection"]
            assert one.parity_exact is not None
            assert one.parity_host is not None
            # On a model this small float can be faster; nothing else may speak against it.
            assert one.verdict is not Verdict.REJECTED or one.reason.startswith("speed")


def test_what_was_chosen_was_read_once_and_raced(report: Report) -> None:
    for target in report.targets[:2]:
        assert target.chosen is not None
        assert target.chosen.recipe in target.named
        read = [c for c in target.candidates if c.metric is not None]
        assert 1 <= len(read) <= len(target.named) <= 3
        assert target.chosen.evidence is not None
        assert target.chosen.evidence.samples == report.model.split.held_out  # type: ignore[union-attr]
        assert target.baseline_ms is not None
        assert target.chosen.latency_ms is not None
        assert target.chosen.latency_ms.p50 <= target.baseline_ms.p50 * 1.1


def test_an_engine_is_unproven_and_says_which_gates_were_not_run(
    report: Report, place: Path
) -> None:
    engine = report.targets[2]
    assert engine.status is Verdict.UNPROVEN
    assert engine.chosen is not None
    not_run = {gate.name for gate in engine.chosen.gates if gate.passed is None}
    assert not_run >= {"parity", "metric", "speed"}
    stand_ins = {gate.stand_in for gate in engine.chosen.gates if gate.name == "metric"}
    assert stand_ins == {"model.onnx in onnxruntime"}
    assert engine.chosen.latency_ms is None
    content = package.read((place / "out" / engine.chosen.path).read_bytes())
    assert content.manifest.status == "unproven"
    assert content.manifest.runtime == "tensorrt-rtx"
    assert content.manifest.runtime_version.startswith("1.7.1")
    assert len(content.payload) > 10_000
    assert engine.fallback is not None
    assert engine.fallback.verdict is Verdict.ACCEPTED
    portable = package.read((place / "out" / engine.fallback.path).read_bytes())
    assert portable.manifest.runtime in {"onnxruntime", "litert"}


def test_artifacts_answer_in_the_models_own_names_and_layouts(report: Report, place: Path) -> None:
    raw = model_folders.images(24, 9)
    expected = model_folders.answers(model_folders.classifier(), raw)
    for target in report.targets[:2]:
        assert target.chosen is not None
        opened = artifact.unsigned((place / "out" / target.chosen.path).read_bytes())
        manifest = opened.package.manifest
        runtime = registry.open_runtime(opened)
        answers = runtime.run({"image": tensor_of(manifest.inputs[0], raw)})
        runtime.close()
        assert answers["probs"].shape == expected.shape
        assert answers["probs"].dtype == np.float32
        agree = (answers["probs"].argmax(1) == expected.argmax(1)).mean()
        assert agree > 0.85


def test_a_budget_of_nothing_climbs_down_to_float(place: Path) -> None:
    toml = model_folders.TOML.replace("budget = 0.05", "budget = 0")
    folder = model_folders.write(place / "strict", toml=toml, evaluation_n=2000, noise=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTRIDER_CACHE", str(place / "cache"))
        patch.setenv("OUTRIDER_COMPILE_KEY", str(place / "key.pem"))
        (target,) = compiling.run(
            compiling.Request(folder=folder, targets=["litert-cpu"], out=place / "strict-out")
        ).targets
    assert target.chosen is not None
    assert target.chosen.metric is not None
    assert target.chosen.metric.value >= target.chosen.metric.reference
    rejected = [c for c in target.candidates if c.verdict is Verdict.REJECTED]
    assert any("loss" in c.reason for c in rejected)


@pytest.mark.parametrize(
    ("target", "recipe"),
    [("litert-cpu", "litert_static_wi8_ai8"), ("onnx-cpu", "qdq_static_u8s8_pc_rr")],
)
def test_files_are_the_same_when_built_twice(place: Path, target: str, recipe: str) -> None:
    digests = []
    for name in ("a", "b"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OUTRIDER_CACHE", str(place / f"cache-{name}"))
            patch.setenv("OUTRIDER_COMPILE_KEY", str(place / "key.pem"))
            (found,) = compiling.run(
                compiling.Request(
                    folder=place / "tiny", targets=[target], out=place / f"out-{name}",
                    recipes=[recipe], calibrators=["mse"],
                )
            ).targets  # fmt: skip
        assert found.chosen is not None
        digests.append(found.chosen.payload_sha256)
    assert digests[0] == digests[1]
