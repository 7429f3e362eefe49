"""From a model folder to an artifact on this host, without any toolchain but ONNX Runtime itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from support import model_folders

from compiler.errors import DataError, EvaluationError, MetricError, ModelError
from compiler.service import compile as compiling
from compiler.service import report as reports
from compiler.service.report import Report, Verdict
from fleet.artifact import package
from fleet.errors import OutriderError
from fleet.telemetry import features

NO_TOOLCHAIN = "onnx-cpu"


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTRIDER_TOOLCHAINS", str(tmp_path / "toolchains"))
    monkeypatch.setenv("OUTRIDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OUTRIDER_COMPILE_KEY", str(tmp_path / "key.pem"))


def compiled(folder: Path, out: Path, *targets: str) -> Report:
    return compiling.run(
        compiling.Request(folder=folder, targets=targets or (NO_TOOLCHAIN,), out=out)
    )


def test_what_can_be_built_is_built_and_the_rest_says_why_not(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path / "tiny")
    said: list[tuple[float, str]] = []
    report = compiling.run(
        compiling.Request(
            folder=folder, targets=["onnx-cpu", "litert-cpu"], out=tmp_path / "out", version="9"
        ),
        lambda fraction, text: said.append((fraction, text)),
    )
    onnx, litert = report.targets
    assert onnx.status is Verdict.ACCEPTED
    assert onnx.chosen is not None
    assert onnx.chosen.recipe == "onnx_fp32"
    skipped = [c for c in onnx.candidates if c.verdict is Verdict.SKIPPED]
    assert skipped
    assert all("outrider toolchain install onnx" in c.reason for c in skipped)
    assert litert.status is Verdict.REJECTED
    assert litert.chosen is None
    assert [fraction for fraction, _ in said] == sorted(fraction for fraction, _ in said)
    assert said[-1] == (1.0, "done")

    written = json.loads((tmp_path / "out" / "report.json").read_text())
    Draft202012Validator(reports.schema()).validate(written)
    assert (written["model"]["name"], written["model"]["version"]) == ("tiny", "9")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "onnx_fp32" in page
    assert "src=" not in page

    content = package.read((tmp_path / "out" / onnx.chosen.path).read_bytes())
    manifest = content.manifest
    assert manifest.metric.value == pytest.approx(manifest.metric.reference)
    assert 0.8 < manifest.metric.value < 1
    assert manifest.version == "9"
    assert manifest.latency_ms_p95 >= manifest.latency_ms_p50 > 0
    names = features.names_for(manifest.inputs, manifest.outputs)
    assert sorted(feature.name for feature in manifest.features) == sorted(names)
    assert all(feature.thresholds for feature in manifest.features)
    assert content.golden_inputs["image"].shape == (8, 3, 8, 8)


def test_two_compiles_make_the_same_payload(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path / "tiny")
    digests = []
    for name in ("one", "two"):
        (target,) = compiled(folder, tmp_path / name).targets
        assert target.chosen is not None
        digests.append(target.chosen.payload_sha256)
    assert digests[0] == digests[1]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_model_of_fixed_batch_is_fed_as_it_asks(tmp_path: Path, batch: int) -> None:
    one = model_folders.write(tmp_path / "any")
    model = model_folders.classifier(batch=batch)
    fixed = model_folders.write(tmp_path / "fixed")
    (fixed / "model.onnx").write_bytes(model.SerializeToString())
    values = []
    for folder in (one, fixed):
        report = compiled(folder, tmp_path / f"out-{folder.name}")
        assert report.targets[0].chosen is not None
        assert report.model.metric is not None
        values.append(report.model.metric.value)
    assert values[0] == values[1]


STATEFUL = '''
import numpy as np

def score(run, data):
    """Feeds raw bytes and tensors alike; both must give the same."""
    raw = run({"image": data["image"][:4]})["probs"]
    tensor = ((data["image"][:4].astype(np.float32) - 128) / 64).transpose(0, 3, 1, 2)
    again = run({"image": np.ascontiguousarray(tensor)})["probs"]
    assert np.allclose(raw, again, atol=1e-6)
    return float(raw.max(1).mean())
'''


def custom(tmp_path: Path, code: str) -> Path:
    toml = model_folders.TOML.replace('name = "top1"', 'name = "own_metric:score"')
    folder = model_folders.write(tmp_path / "tiny", toml=toml)
    (folder / "own_metric.py").write_text(code)
    return folder


def test_a_custom_metric_from_the_folder_scores(tmp_path: Path) -> None:
    (target,) = compiled(custom(tmp_path, STATEFUL), tmp_path / "out").targets
    assert target.chosen is not None
    assert target.chosen.metric is not None
    assert target.chosen.metric.name == "own_metric:score"
    assert 0.25 < target.chosen.metric.value < 1
    assert target.evidence == "weak"


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("def score(run, data): return 1 / 0", MetricError, "raised ZeroDivisionError"),
        ("def score(run, data): return float('nan')", MetricError, "expected a finite number"),
        ("def other(run, data): return 1", MetricError, "no attribute 'score'|has no attribute"),
        ("import no_such_module_here", MetricError, "No module named"),
        ("score = 7", MetricError, "expected a function"),
        (
            "def score(run, data): return run({'picture': data['image']})['probs'].mean()",
            EvaluationError,
            r"expected the inputs \['image'\]",
        ),
        ("import os\ndef score(run, data): os.abort()", EvaluationError, "killed by SIGABRT"),
    ],
)
def test_a_custom_metric_that_fails_is_told_and_leaves_no_output(
    tmp_path: Path, code: str, kind: type[OutriderError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        compiled(custom(tmp_path, code), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"tiny", "key.pem", "cache", "toolchains"}


def test_labels_out_of_range_are_an_error_of_the_data(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path / "tiny")
    with np.load(folder / "evaluation.npz") as arrays:
        image, label = arrays["image"], arrays["label"]
    np.savez(folder / "evaluation.npz", image=image, label=label + 1)
    with pytest.raises(DataError, match=r"expected classes 0 to 3.*found 4"):
        compiled(folder, tmp_path / "out")
    np.savez(folder / "evaluation.npz", image=image)
    with pytest.raises(DataError, match="expected an array 'label'"):
        compiled(folder, tmp_path / "out")


def test_a_model_that_cannot_run_is_said(tmp_path: Path) -> None:
    model = model_folders.classifier()
    model.graph.initializer[4].dims[:] = [model_folders.CLASSES * 16]
    folder = model_folders.write(tmp_path / "tiny")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="expected ONNX Runtime to run the model"):
        compiled(folder, tmp_path / "out")


def test_the_service_says_how_it_goes_line_by_line(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path / "tiny")
    command = [sys.executable, "-m", "compiler.service", "--target", NO_TOOLCHAIN]
    good = subprocess.run(
        [*command, "--folder", folder, "--out", tmp_path / "out", "--version", "12"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    lines = [json.loads(line) for line in good.stdout.splitlines()]
    assert good.returncode == 0
    assert {line["event"] for line in lines[:-1]} == {"progress"}
    assert lines[-1]["report"]["model"]["version"] == "12"
    (folder / "outrider.toml").write_text("name = 7")
    bad = subprocess.run(
        [*command, "--folder", folder, "--out", tmp_path / "out"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    last = json.loads(bad.stdout.splitlines()[-1])
    assert bad.returncode == 1
    assert last["event"] == "failed"
    assert last["error"]["code"] == "compiler.folder"


def test_an_ended_service_leaves_nothing_behind(tmp_path: Path) -> None:
    code = "import time\ndef score(run, data):\n    open(MARK, 'w').close(); time.sleep(600)\n"
    mark = tmp_path / "scoring"
    folder = custom(tmp_path, f"MARK = {str(mark)!r}\n{code}")
    out = tmp_path / "place" / "out"
    with subprocess.Popen(
        [sys.executable, "-m", "compiler.service", "--folder", folder, "--target", NO_TOOLCHAIN, "--out", out],
        stdout=subprocess.DEVNULL, start_new_session=True,
    ) as service:  # fmt: skip
        deadline = time.monotonic() + 60
        while not mark.exists() and time.monotonic() < deadline and service.poll() is None:
            time.sleep(0.02)
        assert mark.exists()
        os.kill(service.pid, signal.SIGTERM)
        assert service.wait(20) == 143
    assert list(out.parent.iterdir()) == []
