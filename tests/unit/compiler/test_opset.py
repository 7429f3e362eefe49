"""Old operator sets: upgraded, and the answers stay; wrong ones are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx.shape_inference
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import model_folders
from support.model_folders import info

from compiler.errors import ModelError
from compiler.graph import reading
from compiler.graph.onnx_model import OnnxModel

OLD = range(7, 13)
CASES = Path(onnx.backend.test.__file__).parent / "data"


def read(path: Path, model: onnx.ModelProto) -> OnnxModel:
    path.write_bytes(model.SerializeToString())
    return reading.read(path)


def run(model: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def constant(name: str, value, dtype=np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def small(opset: int, nodes, *, constants=()) -> onnx.ModelProto:
    """x float32 -> y, by nodes in the form of an old opset, as old exporters wrote it."""
    graph = helper.make_graph(nodes, "old", [info("x", [1, 4, 6, 6])], [empty("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    for tensor in constants:
        model.graph.input.append(info(tensor.name, list(tensor.dims), tensor.data_type))
    return onnx.shape_inference.infer_shapes(model)


def empty(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def old_forms(opset: int) -> dict[str, onnx.ModelProto]:
    """Operators whose form has changed since, each in the form of `opset`."""
    node = helper.make_node
    weights = constant("w", np.random.default_rng(0).normal(0, 1, (4, 4, 3, 3)))
    scale = [constant(n, np.random.default_rng(i).uniform(0.5, 1, 4)) for i, n in enumerate("abcd")]
    forms = {
        "conv": small(opset, [node("Conv", ["x", "w"], ["y"])], constants=[weights]),
        "softmax": small(opset, [node("Softmax", ["x"], ["y"], axis=1)]),
        "squeeze": small(opset, [node("Squeeze", ["x"], ["y"], axes=[0])]),
        "unsqueeze": small(opset, [node("Unsqueeze", ["x"], ["y"], axes=[0])]),
        "reduce": small(opset, [node("ReduceSum", ["x"], ["y"], axes=[2, 3], keepdims=0)]),
        "split": small(opset, [node("Split", ["x"], ["y", "z"], axis=1, split=[1, 3])]),
        "dropout": small(opset, [node("Dropout", ["x"], ["y"])]),
        "pool": small(opset, [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])]),
        "flatten": small(opset, [node("Flatten", ["x"], ["y"], axis=1)]),
        "normalize": small(
            opset, [node("BatchNormalization", ["x", *"abcd"], ["y"])], constants=scale
        ),
        "transpose": small(opset, [node("ConvTranspose", ["x", "w"], ["y"])], constants=[weights]),
    }
    if opset < 10:
        forms["slice"] = small(opset, [node("Slice", ["x"], ["y"], starts=[1], ends=[3], axes=[2])])
    if opset < 11:
        forms["pad"] = small(opset, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 1, 0, 0, 1, 1])])
        forms["clip"] = small(opset, [node("Clip", ["x"], ["y"], min=-0.5, max=0.5)])
    if opset == 9:
        sizes = constant("s", [1, 1, 2, 2])
        forms["upsample"] = small(
            opset, [node("Upsample", ["x", "s"], ["y"], mode="nearest")], constants=[sizes]
        )
    return forms


@pytest.mark.parametrize("opset", OLD)
def test_every_old_form_is_upgraded_and_answers_alike(tmp_path: Path, opset: int) -> None:
    x = np.random.default_rng(1).normal(0, 1, (1, 4, 6, 6)).astype(np.float32)
    for name, model in old_forms(opset).items():
        found = read(tmp_path / "m.onnx", model)
        assert found.opset == opset
        assert found.notes[0].startswith(f"opset {opset} upgraded to "), (name, found.notes)
        assert [spec.name for spec in found.inputs] == ["x"]
        for left, right in zip(
            run(found.data, {"x": x}), run(found.upgraded, {"x": x}), strict=True
        ):
            np.testing.assert_allclose(left, right, atol=1e-5, err_msg=name)


def test_what_onnx_tests_its_own_backends_with_is_upgraded_and_answers_alike() -> None:
    compared = 0
    for path in sorted(CASES.glob("*/*/model.onnx")):
        try:
            found = reading.read(path)
        except ModelError:
            continue  # sequences, texts, no inputs: refused by name, see test_onnx_model
        if not 7 <= found.opset < 13:
            continue
        assert not any("could not" in note for note in found.notes), (path, found.notes)
        shapes = [[n or 1 for n in spec.shape] for spec in found.inputs]
        if any(spec.dtype != "float32" for spec in found.inputs):
            continue
        rng = np.random.default_rng(2)
        feeds = {
            spec.name: rng.uniform(0.1, 1, shape).astype(np.float32)
            for spec, shape in zip(found.inputs, shapes, strict=True)
        }
        for left, right in zip(run(found.data, feeds), run(found.upgraded, feeds), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4, err_msg=str(path))
        compared += 1
    assert compared > 10


@pytest.mark.parametrize("version", [-1, 0, 1000])
def test_an_opset_that_does_not_exist_is_named(tmp_path: Path, version: int) -> None:
    model = model_folders.classifier()
    model.opset_import[0].version = version
    with pytest.raises(ModelError, match=f"expected an opset of 1 to .* found {version}"):
        read(tmp_path / "m.onnx", model)


def test_an_ir_version_of_tomorrow_is_named(tmp_path: Path) -> None:
    model = model_folders.classifier()
    model.ir_version = 999
    with pytest.raises(ModelError, match=r"IR version of at most .*, found 999"):
        read(tmp_path / "m.onnx", model)


def test_two_versions_of_one_set_are_named(tmp_path: Path) -> None:
    model = model_folders.classifier()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 12))
    with pytest.raises(
        ModelError, match=r"one version of the operator set 'ai\.onnx', found 17 and"
    ):
        read(tmp_path / "m.onnx", model)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("Relux", "found 'Relux', which no opset has; did you mean 'Relu'"),
        ("Gelu", "found 'Gelu', which came with opset 20"),
        ("Upsample", "found 'Upsample', which was removed with opset 10"),
    ],
)
def test_an_operator_that_its_set_does_not_have_is_named(
    tmp_path: Path, operator: str, message: str
) -> None:
    model = model_folders.classifier()
    model.graph.node[1].op_type = operator
    model.graph.node[1].name = "act_1"
    with pytest.raises(ModelError, match=f"node 'act_1' .{operator}.: .*{message}"):
        read(tmp_path / "m.onnx", model)


def test_a_set_that_is_used_and_not_named_is_told(tmp_path: Path) -> None:
    model = model_folders.classifier()
    model.opset_import[0].domain = "ai.onnx.ml"
    model.opset_import[0].version = 3
    with pytest.raises(ModelError, match=r"expected the operator set 'ai\.onnx' among"):
        read(tmp_path / "m.onnx", model)
