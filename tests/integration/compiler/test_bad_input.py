"""Wrong folders, told by name by a compile and by a push, before any work that is not needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from support import model_folders
from support.model_folders import info

from cloud.errors import InputError
from cloud.services import models
from compiler.errors import EvaluationError, MetricError, ModelError
from compiler.service import compile as compiling
from fleet.errors import CallerError

Change = Callable[[Path], None]


def on_model(change: Callable[[onnx.ModelProto], object]) -> Change:
    def apply(folder: Path) -> None:
        model = onnx.load_model(folder / "model.onnx")
        change(model)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return apply


def on_data(file: str, **arrays: np.ndarray | None) -> Change:
    def apply(folder: Path) -> None:
        with np.load(folder / file) as found:
            kept = {**found, **arrays}
        np.savez(folder / file, **{k: v for k, v in kept.items() if v is not None})

    return apply


def on_text(old: str, new: str) -> Change:
    def apply(folder: Path) -> None:
        text = (folder / "outrider.toml").read_text()
        assert old in text
        (folder / "outrider.toml").write_text(text.replace(old, new))

    return apply


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "MyRelu", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def escaping(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def circular(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r2"


def truncated(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def huge(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(info("image", ["n", 3, 1 << 40, 8]))


IMAGES = model_folders.images(64, 1)
TENSORS = IMAGES.transpose(0, 3, 1, 2).astype(np.float32)
NAN = TENSORS.copy()
NAN[3, 1, 2, 0] = np.nan
LABEL = np.zeros(200, np.int64)
CASES: dict[str, tuple[Change, str]] = {
    "truncated": (truncated, "bytes that do not parse"),
    "escaping": (on_model(escaping), "tensor 'w1': .*inside the model's folder"),
    "circle": (on_model(circular), "without circles, found node Conv that makes 'c1' -> "),
    "opset": (
        on_model(lambda m: setattr(m.opset_import[0], "version", 4711)),
        "expected an opset of 1 to .*found 4711",
    ),
    "huge": (on_model(huge), "input 'image': expected at most"),
    "operator": (on_model(custom_operator), "custom operator 'MyRelu' of domain 'com.example'"),
    "nan": (
        on_data("calibration.npz", image=NAN),
        r"calibration.npz: image: expected finite numbers, found 1 NaN .*first at \[3, 1, 2, 0\]",
    ),
    "name": (
        on_data("calibration.npz", image=None, picture=IMAGES),
        r"named 'image' as the model's input, found \['picture'\]",
    ),
    "shape": (
        on_data("calibration.npz", image=IMAGES[:, :7]),
        r"expected shape \[samples, 8, 8, 3\]",
    ),
    "dtype": (
        on_data("calibration.npz", image=IMAGES.astype(np.int16)),
        r"expected dtype uint8 \(raw\) or float32, found int16",
    ),
    "empty": (
        on_data("calibration.npz", image=IMAGES[:0]),
        "expected at least 1 sample, found none",
    ),
    "no arrays": (on_data("calibration.npz", image=None), "expected arrays, found an empty file"),
    "pickle": (
        on_data("calibration.npz", image=np.array([{"a": 1}], dtype=object)),
        "found dtype object; pickled objects are not opened",
    ),
    "no labels": (on_data("evaluation.npz", label=None), "expected an array 'label'"),
    "range": (
        on_data("evaluation.npz", label=np.where(np.arange(200) == 17, 9, LABEL)),
        r"expected classes 0 to 3, .*found 9 .*row 17",
    ),
    "negative": (on_data("evaluation.npz", label=LABEL - 1), "classes from 0 up, found -1"),
    "count": (on_data("evaluation.npz", label=LABEL[:7]), "expected 200 labels"),
    "output": (
        on_text('name = "top1"', 'name = "top1"\noutput = "logit"'),
        r"metric.output: expected one of the model's outputs \['probs'\], found 'logit'",
    ),
    "unknown input": (on_text("[inputs.image]", "[inputs.imag]"), r"inputs\.imag: expected one of"),
    "key": (on_text("budget", "budgte"), "found no such key|expected one of the keys"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_compile_tells_what_is_wrong_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    change, message = CASES[name]
    folder = model_folders.write(tmp_path / "tiny")
    change(folder)
    before = sorted(path.name for path in folder.iterdir())
    request = compiling.Request(folder=folder, targets=["onnx-cpu"], out=tmp_path / "out")
    with pytest.raises(CallerError, match=f"(?s){message}") as told:
        compiling.run(request)
    assert str(folder) in str(told.value), "which file it is about"
    assert len(str(told.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"], "no output, no work folder"
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("name", CASES)
def test_a_push_tells_the_same(tmp_path: Path, name: str) -> None:
    change, message = CASES[name]
    folder = model_folders.write(tmp_path / "tiny")
    change(folder)
    with pytest.raises(InputError, match=f"(?s){message}") as told:
        models.check(folder)
    assert "Traceback" not in str(told.value)
    assert str(tmp_path) not in str(told.value), "nobody's business where the cloud keeps it"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise RuntimeError('no luck')", "metric 'own:score' raised RuntimeError: no luck"),
        ("return float('nan')", "expected a finite number"),
        ("return 'high'", "metric 'own:score'"),
        ("import os; os.abort()", "was killed by SIGABRT"),
    ],
)
def test_a_metric_that_fails_is_told(tmp_path: Path, code: str, message: str) -> None:
    toml = model_folders.TOML.replace('name = "top1"', 'name = "own:score"')
    folder = model_folders.write(tmp_path / "tiny", toml=toml)
    (folder / "own.py").write_text(f"def score(run, data):\n    {code}\n")
    request = compiling.Request(folder=folder, targets=["onnx-cpu"], out=tmp_path / "out")
    with pytest.raises((MetricError, EvaluationError), match=message):
        compiling.run(request)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_model_that_answers_nan_is_told(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path / "tiny")

    def broken(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[1]
        tensor.raw_data = np.full(list(tensor.dims), np.nan, np.float32).tobytes()

    on_model(broken)(folder)
    request = compiling.Request(folder=folder, targets=["onnx-cpu"], out=tmp_path / "out")
    with pytest.raises(ModelError, match="output 'probs': expected numbers, found NaN"):
        compiling.run(request)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_control_flow_names_the_backend_that_cannot_take_it(tmp_path: Path) -> None:
    folder = model_folders.write(tmp_path / "tiny")

    def branching(model: onnx.ModelProto) -> None:
        node = model.graph.node.pop()
        branch = helper.make_graph([node], "b", [], [info("probs", ["n", 4])])
        other = helper.make_graph(
            [helper.make_node("Softmax", ["logits"], ["probs2"], axis=1)],
            "o",
            [],
            [info("probs2", ["n", 4])],
        )
        model.graph.initializer.append(helper.make_tensor("c", TensorProto.BOOL, [], [True]))
        model.graph.node.append(
            helper.make_node("If", ["c"], ["probs"], then_branch=branch, else_branch=other)
        )
        branch.node[0].output[0] = branch.output[0].name = "probs1"
        del model.graph.node[-1]
        model.graph.node.append(
            helper.make_node("If", ["c"], ["probs"], then_branch=branch, else_branch=other)
        )

    on_model(branching)(folder)
    request = compiling.Request(
        folder=folder,
        targets=["litert-cpu", "onnx-cpu"],
        out=tmp_path / "out",
        recipes=["litert_fp32"],
    )
    report = compiling.run(request)
    assert "contains If: litert cannot take that" in report.model.notes[-1]
    (candidate,) = report.targets[0].candidates
    assert candidate.verdict == "failed"
    assert "found If: " in candidate.reason
    assert "ONNX Runtime" in candidate.reason
