"""Graphs that do not hold together: each mistake is told by the name of what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import model_folders
from support.model_folders import info

from compiler.errors import ModelError
from compiler.graph import control_flow, onnx_model, reading
from compiler.graph.onnx_model import OnnxModel


def read(path: Path, model: onnx.ModelProto) -> OnnxModel:
    path.write_bytes(model.SerializeToString())
    return reading.read(path, shown="m.onnx")


def graph_of(*nodes: onnx.NodeProto, initializers=(), inputs=("x",), outputs=("y",)):
    graph = helper.make_graph(
        list(nodes), "g", [info(n, [2]) for n in inputs], [info(n, [2]) for n in outputs],
        list(initializers),
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: str, outputs: str, name: str = "", **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=name, **attributes)


def add(inputs: str, output: str, name: str) -> onnx.NodeProto:
    return node("Add", inputs, output, name)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [add("x c", "a", "first"), add("a x", "b", "second"), add("b x", "c", "third"),
             node("Relu", "c", "y")],
            r"without circles, found node 'first' .* -> node 'second' .* -> node 'third' .* -> node 'first'",
        ),
        ([add("y x", "y", "itself")], r"without circles, found node 'itself' \(Add\) -> node 'itself'"),
        (
            [add("a x", "y", "late"), node("Relu", "x", "a", "early")],
            r"node 'late' \(Add\): .*'a' to be made before it is used, found node 'early'",
        ),
        ([add("x nothing", "y", "n")], r"node 'n' \(Add\): expected its input 'nothing' to be"),
        ([node("Relu", "x", "a", "n")], "makes the output 'y', found none"),
        (
            [node("Relu", "x", "y", "one"), node("Neg", "x", "y", "two")],
            r"'y' to be made once, found node 'two' .* and node 'one'",
        ),
        ([node("Relu", "y", "x", "n"), node("Relu", "x", "y")], "'x' to be made once"),
    ],
)  # fmt: skip
def test_who_makes_what_is_told(tmp_path: Path, nodes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path / "m.onnx", graph_of(*nodes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("x", "x")}, "different names for its inputs, found 'x' twice"),
        ({"outputs": ("y", "y")}, "different names for its outputs, found 'y' twice"),
        ({"outputs": ("y", "")}, "a name for each of its outputs"),
        (
            {"initializers": [numpy_helper.from_array(np.zeros(2, np.float32), "w")] * 2},
            "different names for its initializers, found 'w' twice",
        ),
    ],
)
def test_names_that_are_taken_are_told(tmp_path: Path, changes, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path / "m.onnx", graph_of(node("Relu", "x", "y"), **changes))


def branching(body: onnx.GraphProto, kind: str = "If") -> onnx.ModelProto:
    other = helper.make_graph([node("Neg", "x", "o")], "other", [], [info("o", [2])])
    choose = helper.make_node(
        kind, ["c"], ["y"], name="choose", then_branch=body, else_branch=other
    )
    graph = helper.make_graph(
        [choose], "g", [info("x", [2]), info("c", [], TensorProto.BOOL)], [info("y", [2])]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_branch_that_uses_what_nobody_makes_is_told(tmp_path: Path) -> None:
    body = helper.make_graph([node("Relu", "ghost", "t", "inner")], "then", [], [info("t", [2])])
    with pytest.raises(ModelError, match=r"graph 'then' of node 'choose' .*node 'inner' .*'ghost'"):
        read(tmp_path / "m.onnx", branching(body))


def test_control_flow_is_taken_and_says_who_cannot(tmp_path: Path) -> None:
    body = helper.make_graph([node("Relu", "x", "t")], "then", [], [info("t", [2])])
    found = read(tmp_path / "m.onnx", branching(body))
    assert found.operators == {"If": 1, "Neg": 1, "Relu": 1}
    (note,) = found.notes
    assert "contains If: litert cannot take that, onnxruntime can" in note
    assert "found If: " in control_flow.obstacle(found.operators, "litert")
    assert control_flow.obstacle(found.operators, "onnx") == ""
    assert control_flow.obstacle({"Relu": 1}, "litert") == ""


def function(name: str, *calls: str) -> onnx.FunctionProto:
    nodes = [helper.make_node(call, ["a"], ["b"], domain="mine") for call in calls]
    nodes = nodes[:1] or [helper.make_node("Relu", ["a"], ["b"])]
    more = [
        helper.make_node(call, ["a"], [f"b{i}"], domain="mine") for i, call in enumerate(calls[1:])
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a"], ["b"], [*nodes, *more], opsets)


def calling(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    model = graph_of(helper.make_node(functions[0].name, ["x"], ["y"], domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.extend(functions)
    return model


def test_functions_of_the_models_own_are_taken(tmp_path: Path) -> None:
    found = read(
        tmp_path / "m.onnx", calling(function("A", "B", "C"), function("B"), function("C"))
    )
    assert found.operators == {"Relu": 2}


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([function("A", "A")], "found 'A' -> 'A'"),
        ([function("A", "C", "B"), function("B", "A"), function("C")], "found 'A' -> 'B' -> 'A'"),
        ([function("A"), function("A")], "function 'A' of domain 'mine' once, found it twice"),
    ],
)
def test_functions_that_never_end_are_told(tmp_path: Path, functions, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path / "m.onnx", calling(*functions))


def test_a_custom_operator_in_a_branch_of_a_function_is_found(tmp_path: Path) -> None:
    bad = helper.make_node("Evil", ["a"], ["t"], domain="evil")
    body = helper.make_graph([bad], "then", [], [info("t", [2])])
    choose = helper.make_node("If", ["a"], ["b"], then_branch=body, else_branch=body)
    opsets = [helper.make_opsetid("", 17)]
    made = helper.make_function("mine", "A", ["a"], ["b"], [choose], opsets)
    with pytest.raises(ModelError, match="custom operator 'Evil' of domain 'evil'"):
        read(tmp_path / "m.onnx", calling(made))


def with_tensor(**fields) -> onnx.ModelProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
    for key, value in fields.items():
        tensor.ClearField(key)
        if isinstance(value, list):
            getattr(tensor, key).extend(value)
        elif value is not None:
            setattr(tensor, key, value)
    return graph_of(add("x w", "y", "n"), initializers=[tensor])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dims": [-2]}, "dimensions of at least 0, found .-2"),
        ({"dims": [1 << 62, 1 << 62]}, "expected at most 2147483647 bytes"),
        ({"dims": [1 << 40]}, "expected at most 2147483647 bytes"),
        ({"dims": [1] * 65}, "at most 64 dimensions, found 65"),
        ({"dims": [3]}, "expected 12 bytes for shape .3., found 8"),
        ({"raw_data": None}, "expected 2 elements for shape .2., found 0"),
        ({"raw_data": None, "float_data": [1.0]}, "expected 2 elements for shape .2., found 1"),
        (
            {"raw_data": None, "float_data": [1.0, 2.0], "int64_data": [1]},
            "its elements in one field, found float_data, int64_data",
        ),
        ({"data_type": 99}, "a known element type, found 99"),
        ({"data_type": 0}, "a known element type, found 0"),
    ],
)
def test_a_tensor_that_lies_is_named(tmp_path: Path, fields, message: str) -> None:
    with pytest.raises(ModelError, match=f"m.onnx: tensor 'w': .*{message}"):
        read(tmp_path / "m.onnx", with_tensor(**fields))


def test_a_sparse_tensor_as_large_as_a_city_takes_no_memory(tmp_path: Path) -> None:
    model = graph_of(add("x w", "y", "n"))
    sparse = model.graph.sparse_initializer.add(dims=[1 << 40])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "i"))
    with pytest.raises(ModelError, match="sparse tensor 'w': expected at most"):
        read(tmp_path / "m.onnx", model)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1 << 40, 3], "expected at most 2147483647 bytes, found shape"),
        ([0, 3], "dimensions of at least 1, found .0, 3."),
        ([-1, 3], "dimensions of at least 1, found .-1, 3."),
        ([1] * 70, "at most 64 dimensions"),
    ],
)
def test_an_input_that_nothing_can_be_fed_with_is_named(
    tmp_path: Path, shape: list[int], message: str
) -> None:
    model = graph_of(node("Relu", "x", "y"))
    model.graph.input[0].CopyFrom(info("x", shape))
    with pytest.raises(ModelError, match=f"input 'x': .*{message}"):
        read(tmp_path / "m.onnx", model)


def test_a_text_input_is_called_that(tmp_path: Path) -> None:
    model = graph_of(node("Identity", "x", "y"))
    model.graph.input[0].CopyFrom(info("x", [1], TensorProto.STRING))
    with pytest.raises(ModelError, match=r"input 'x': expected one of bool, .*found string"):
        read(tmp_path / "m.onnx", model)


def test_a_location_that_is_no_text_is_told(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    data = graph_of(add("x w", "y", "n"), initializers=[tensor]).SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data.replace(b"w.bin", b"w\xff\xfe\x80n"))
    with pytest.raises(ModelError, match=r"names in UTF-8, found b'w"):
        reading.read(path)


def wrapped(field: int, data: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    length, size = b"", len(data)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + data


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    graph = b""
    for _ in range(200):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
        graph = wrapped(1, wrapped(5, wrapped(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08" + wrapped(7, graph))
    with pytest.raises(ModelError, match="nested too deeply"):
        reading.read(path)


def test_a_bomb_of_empty_nodes_costs_only_the_child(tmp_path: Path) -> None:
    model = model_folders.classifier()
    graph = model.graph.SerializeToString() + b"\x0a\x00" * (8 << 20)
    model.ClearField("graph")
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString() + wrapped(7, graph))
    with pytest.raises(ModelError, match="expected"):
        onnx_model.load(path)


def test_a_crash_of_native_code_costs_only_the_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'compiler.graph.reading' in ' '.join(sys.orig_argv):\n"
        "    import onnx.checker\n"
        "    onnx.checker.check_model = lambda *_: os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "m.onnx"
    path.write_bytes(model_folders.classifier().SerializeToString())
    with pytest.raises(ModelError, match="but the check was killed by SIGABRT"):
        onnx_model.load(path)


def test_a_converter_that_crashes_costs_the_upgrade_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'compiler.graph.reading' in ' '.join(sys.orig_argv):\n"
        "    import onnx.version_converter\n"
        "    onnx.version_converter.convert_version = lambda *_: os.abort()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = tmp_path / "m.onnx"
    path.write_bytes(model_folders.classifier(opset=9).SerializeToString())
    found = onnx_model.load(path)
    assert found.notes == ["could not be upgraded: the converter was killed by SIGABRT"]
    assert found.upgraded == found.data == path.read_bytes()
