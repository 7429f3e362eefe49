"""A recurrent model through the whole compiler: sequences in, states fed back, artifacts out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import sequence_folders as cells

from agent.runtimes import registry
from agent.runtimes.port import Options
from compiler.errors import DataError
from compiler.service import compile as compiling
from ota.verify import artifact


@pytest.mark.parametrize("flat", [False, True], ids=["blocks", "flat"])
def test_fp32_is_scored_over_sequences(tmp_path: Path, flat: bool) -> None:
    folder = cells.write(tmp_path / "cell", flat=flat)
    request = compiling.Request(
        folder=folder, targets=["onnx-cpu"], out=tmp_path / "out", recipes=["onnx_fp32"], fresh=True
    )
    report = compiling.run(request)
    metric = report.model.metric
    assert metric is not None
    assert metric.value == pytest.approx(0.95, abs=0.02), "labels are the model's own, but for 5 %"
    assert metric.samples == 1200
    assert report.model.calibration_samples == 240
    split = report.model.split
    assert split is not None
    assert (split.selection, split.held_out) == (24, 96), "sequences are divided, never their steps"


def test_without_states_it_is_said_how_to_declare_them(tmp_path: Path) -> None:
    toml = cells.TOML.replace('[states]\nh = "hN"\n', "")
    folder = cells.write(tmp_path / "cell", toml=toml, flat=True)
    request = compiling.Request(folder=folder, targets=["onnx-cpu"], out=tmp_path / "out")
    with pytest.raises(DataError, match=r'\[states\] h = "hN"'):
        compiling.run(request)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "recipe", "at_least"),
    [
        ("onnx-cpu", "qdq_static", 0.9),
        ("litert-cpu", "litert_dynamic_wi8", 0.9),
        # Every elementwise operator of the cell in int8: its errors add up over the steps, and are measured.
        ("litert-cpu", "litert_static_wi8_ai8", 0.7),
    ],
)
def test_int8_carries_its_own_state(
    tmp_path: Path, target: str, recipe: str, at_least: float
) -> None:
    folder = cells.write(tmp_path / "cell", batch=1)
    chosen = [name for name in _recipes(target) if name.startswith(recipe)][:1]
    request = compiling.Request(
        folder=folder, targets=[target], out=tmp_path / "out", recipes=chosen, fresh=True
    )
    report = compiling.run(request)
    tried = [c for c in report.targets[0].candidates if c.selection is not None]
    assert tried, [c.reason for c in report.targets[0].candidates]
    assert max(c.selection.value for c in tried if c.selection) >= at_least


def test_an_application_carries_the_state_itself(tmp_path: Path) -> None:
    folder = cells.write(tmp_path / "cell", batch=1)
    request = compiling.Request(
        folder=folder, targets=["onnx-cpu"], out=tmp_path / "out", recipes=["onnx_fp32"], fresh=True
    )
    found = compiling.run(request).targets[0].chosen
    assert found is not None
    opened = artifact.unsigned((tmp_path / "out" / found.path).read_bytes())
    runtime = registry.open_runtime(opened, Options(threads=1))
    x = cells.inputs(1, 10, 9)[0]
    state = np.zeros((1, 1, cells.HIDDEN), np.float32)
    scores = []
    for step in x:
        answers = runtime.run({"x": step[None], "h": state})
        state = answers["hN"]
        scores.append(answers["y"][0])
    expected, _ = cells.run(cells.cell(batch=1), x)
    runtime.close()
    np.testing.assert_allclose(np.stack(scores), expected, atol=1e-4)


def _recipes(target: str) -> list[str]:
    from compiler.targets import catalog

    return [recipe.name for tier in catalog.get(target).ladder for recipe in tier]
