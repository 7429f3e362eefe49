"""ONNX files that nobody vouches for."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from support import model_folders
from support.model_folders import info

from compiler.errors import ModelError
from compiler.graph import onnx_model, reading


def saved(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def data() -> bytes:
    return model_folders.classifier().SerializeToString()


def test_signature_is_the_models_own(tmp_path: Path) -> None:
    found = onnx_model.load(saved(tmp_path / "m.onnx", model_folders.classifier()))
    assert [(s.name, s.dtype, s.shape) for s in found.inputs] == [
        ("image", "float32", [None, 3, 8, 8])
    ]
    assert [(s.name, s.dtype, s.shape) for s in found.outputs] == [("probs", "float32", [None, 4])]
    assert found.operators["Conv"] == 2
    assert found.data == found.upgraded
    assert found.notes == []


def test_an_old_opset_is_upgraded_and_answers_alike(tmp_path: Path) -> None:
    old = model_folders.classifier(opset=9)
    old.ir_version = 3
    for tensor in old.graph.initializer:
        old.graph.input.append(info(tensor.name, list(tensor.dims)))
    found = onnx_model.load(saved(tmp_path / "m.onnx", old))
    assert [s.name for s in found.inputs] == ["image"]
    assert found.opset == 9
    assert "opset 9 upgraded to 17" in found.notes
    upgraded = onnx.load_model_from_string(found.upgraded)
    assert upgraded.opset_import[0].version == 17
    assert len(upgraded.graph.input) == 1
    x = np.random.default_rng(0).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"]).run(
            None, {"image": x}
        )[0]
        for one in (found.data, found.upgraded)
    ]
    np.testing.assert_allclose(*answers, atol=1e-6)


def test_a_truncated_file_is_refused_at_any_length(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    for length in range(0, len(data) - 1, 37):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError) as error:
            reading.read(path)
        assert str(path) in str(error.value)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), value=st.binary(min_size=1, max_size=8))
def test_a_mutated_file_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: bytes
) -> None:
    data = model_folders.classifier().SerializeToString()
    at %= len(data)
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(data[:at] + value + data[at + len(value) :])
    with contextlib.suppress(ModelError):
        reading.read(path)


def external(model: onnx.ModelProto, location: str, **extra: str) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **extra}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def test_external_data_beside_the_model_are_inlined(tmp_path: Path) -> None:
    model = model_folders.classifier()
    raw = model.graph.initializer[0].raw_data
    (tmp_path / "weights.bin").write_bytes(b"pad!" + raw)
    path = saved(
        tmp_path / "m.onnx",
        external(model, "weights.bin", offset="4", length=str(len(raw))),
    )
    found = onnx_model.load(path)
    inlined = onnx.load_model_from_string(found.data)
    assert inlined.graph.initializer[0].raw_data == raw
    (tmp_path / "weights.bin").write_bytes(b"pad!" + raw[::-1])
    assert onnx_model.load(path).sha256 != found.sha256


@pytest.mark.parametrize(
    ("location", "extra"),
    [
        ("../secret.bin", {}),
        ("/etc/passwd", {}),
        ("link.bin", {}),
        ("", {}),
        ("nul\0l", {}),
        ("weights.bin", {"offset": "999999"}),
        ("weights.bin", {"offset": "-4"}),
        ("weights.bin", {"offset": "x"}),
        ("weights.bin", {"length": "999999999999"}),
    ],
)
def test_external_data_cannot_escape(tmp_path: Path, location: str, extra: dict[str, str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    (home / "weights.bin").write_bytes(bytes(4096))
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = saved(home / "m.onnx", external(model_folders.classifier(), location, **extra))
    with pytest.raises(ModelError, match="tensor 'w1': expected"):
        reading.read(path)


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    model = model_folders.classifier()
    model.graph.node[1].op_type = "MyRelu"
    model.graph.node[1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelError, match=r"'MyRelu' of domain 'com\.example'"):
        reading.read(saved(tmp_path / "m.onnx", model))


def test_a_custom_operator_hidden_in_a_branch_is_found(tmp_path: Path) -> None:
    def branch(name: str, domain: str) -> onnx.GraphProto:
        node = helper.make_node("Relu", ["x"], [name], domain=domain)
        return helper.make_graph([node], name, [], [info(name, [1])])

    choose = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("a", ""), else_branch=branch("b", "evil")
    )
    graph = helper.make_graph(
        [choose], "g", [info("x", [1]), info("c", [], TensorProto.BOOL)], [info("y", [1])]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("evil", 1)]
    with pytest.raises(ModelError, match="of domain 'evil'"):
        reading.read(saved(tmp_path / "m.onnx", helper.make_model(graph, opset_imports=opsets)))


def test_a_tensor_that_claims_more_than_it_has_is_refused(tmp_path: Path) -> None:
    model = model_folders.classifier()
    model.graph.initializer[0].dims[0] = 1 << 40
    with pytest.raises(ModelError, match="tensor 'w1': expected"):
        reading.read(saved(tmp_path / "m.onnx", model))


def test_a_sequence_input_is_refused(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, ["n"])
    node = helper.make_node("SequenceAt", ["s", "i"], ["y"])
    index = numpy_helper.from_array(np.array(0, np.int64), "i")
    graph = helper.make_graph([node], "g", [sequence], [info("y", ["n"])], [index])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match="input 's': expected a tensor, found sequence_type"):
        reading.read(saved(tmp_path / "m.onnx", model))


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        reading.read(tmp_path / "m.onnx")
