"""Real models: each compiles for cpu-arm64, and what is accepted keeps the accuracy that its folder asks for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from compiler.service import compile as compiling
from compiler.service.report import Verdict

pytestmark = [
    pytest.mark.corpus, pytest.mark.toolchain, pytest.mark.slow, pytest.mark.timeout(1200),
]  # fmt: skip
SCRIPT = Path(__file__).parents[2] / "corpus" / "write_folders.py"
CASES = (
    "deeplabv3_mnv2_257",
    "ic01_resnet8_cifar10",
    "kws01_dscnn_speech_commands",
    "magika_v3_3",
    "mnist8_cnn",
    "ultraface_rfb320",
)


RECIPES = {"deeplabv3_mnv2_257": ["litert_dynamic_wi8", "litert_fp32"]}
"""Where measuring each layer would take many minutes: what is tried instead of the whole ladder."""


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_folders", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", CASES)
def test_a_real_model_compiles_within_its_budget(corpus: Path, tmp_path: Path, case: str) -> None:
    source = corpus / case
    if not source.is_dir():
        pytest.skip(f"this corpus has no {case}")
    meta = json.loads((source / "meta.json").read_text())
    folder = script().write(source, meta, tmp_path / case)
    report = compiling.run(
        compiling.Request(
            folder=folder,
            targets=["litert-cpu"],
            out=tmp_path / "out",
            calibrators=["mse"],
            recipes=RECIPES.get(case, ()),
        )
    )
    (target,) = report.targets
    assert target.status is Verdict.ACCEPTED
    assert target.chosen is not None
    metric = target.chosen.metric
    assert metric is not None
    baselines = meta["baseline"]["fp32_onnxruntime"]
    name = next(iter(baselines))
    assert report.model.metric is not None
    assert report.model.metric.value == pytest.approx(baselines[name], abs=2e-3)
    assert metric.value >= metric.reference - metric.budget - 1e-9
    assert target.chosen.payload_size_bytes < 1.3 * meta["files"]["model.onnx"]["size_bytes"]
