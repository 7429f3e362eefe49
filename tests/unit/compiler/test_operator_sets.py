"""Operator sets against what they were derived from: the runtimes and compilers themselves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import flatbuffers
import onnx
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from compiler.errors import CatalogError
from compiler.targets import operators
from compiler.toolchains import catalog, install

BUILTIN = {
    name: code
    for name, code in vars(schema.BuiltinOperator).items()
    if isinstance(code, int) and name not in {"CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"}
}  # fmt: skip


def one_operator(code: int, version: int) -> bytes:
    """A LiteRT file with one operator that has neither inputs nor outputs."""
    kind = schema.OperatorCodeT()
    kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, min(code, 127), version
    tensor = schema.TensorT()
    tensor.shape, tensor.name, tensor.buffer = [1], b"x", 0
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [], []
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs = [tensor], [0], [0]
    graph.operators, graph.name = [operator], b"main"
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers = 3, [kind], [schema.BufferT()]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(256)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def known_to_litert(code: int) -> bool:
    """Whether the interpreter has a kernel for any version of an operator."""
    for version in range(1, 8):
        try:
            Interpreter(
                model_content=one_operator(code, version),
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
        except (ValueError, RuntimeError) as error:
            said = str(error)
            if "Didn't find op" in said or "builtin opcode" in said:
                continue
        return True
    return False


def test_the_litert_set_is_what_the_interpreter_has_kernels_for() -> None:
    assert operators.get("litert") == {n for n, code in BUILTIN.items() if known_to_litert(code)}


def test_vela_and_microcontrollers_name_litert_operators() -> None:
    for name in ("vela-u55-u65", "vela-u85", "tflite-micro"):
        assert operators.get(name) <= set(BUILTIN)


def cpu_kernels(*domains: str) -> set[str]:
    return {
        kernel.op_name
        for kernel in ort_state.get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider" and kernel.domain in domains
    }


def test_the_onnxruntime_sets_are_kernels_or_functions_of_this_version_too() -> None:
    """The sets are of the oldest version that devices may run; a newer one only adds."""
    functions = {
        one.name
        for one in onnx.defs.get_all_schemas_with_history()
        if one.domain == "" and (one.has_function or one.has_context_dependent_function)
    }
    found = operators.get("onnxruntime")
    assert found <= cpu_kernels("", "ai.onnx.ml") | functions | {"Constant"}
    assert {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger"} <= found
    contributed = operators.get("onnxruntime-contrib")
    assert contributed <= cpu_kernels("com.microsoft")
    assert {"QGemm", "DynamicQuantizeLSTM", "QLinearAdd", "QAttention"} <= contributed
    newer = {"Attention", "RotaryEmbedding", "RMSNormalization", "TensorScatter"}
    assert not newer & found


@pytest.mark.parametrize("operator", ["HardSwish", "Mish", "CastLike", "GroupNormalization"])
def test_functions_run_though_they_have_no_kernel(operator: str) -> None:
    """What is expanded into other operators counts as taken, because sessions take it."""
    assert operator not in cpu_kernels("")
    schema_of = onnx.defs.get_schema(operator, 21)
    names = [f"x{at}" for at in range(schema_of.min_input)]
    shapes = {"GroupNormalization": [[1, 4, 2, 2], [4], [4]]}.get(operator, [[2, 3]] * len(names))
    info = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(operator, names, ["y"])
    if operator == "GroupNormalization":
        node.attribute.append(onnx.helper.make_attribute("num_groups", 2))
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [info(n, onnx.TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
        [info("y", onnx.TensorProto.FLOAT, shapes[0])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    model.ir_version = 10
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_newer_tensorrt_takes_what_an_older_one_took() -> None:
    old, new = operators.get("tensorrt-10.3"), operators.get("tensorrt-10.13")
    assert old < new
    assert new - old == {
        "BlackmanWindow", "HammingWindow", "HannWindow", "STFT", "CastLike", "Gelu", "Mish",
    }  # fmt: skip
    standard = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    kept = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of ONNX before its first release
    assert new <= standard | kept


ASK_TENSORRT = """
import json, sys
import tensorrt_rtx as trt
log = trt.Logger(trt.Logger.ERROR)
flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
parser = trt.OnnxParser(trt.Builder(log).create_network(flags), log)
print(" ".join(name for name in sys.argv[1:] if parser.supports_operator(name)))
"""


def ask(toolchain: str, *arguments: str, folder: Path | None = None) -> str:
    python = install.python(catalog.get(toolchain))
    return subprocess.run(
        [python, *arguments], check=True, capture_output=True, text=True, cwd=folder
    ).stdout


@pytest.mark.toolchain
def test_the_tensorrt_rtx_set_is_what_its_parser_says() -> None:
    standard = {s.name for s in onnx.defs.get_all_schemas_with_history() if s.domain == ""}
    found = operators.get("tensorrt-rtx")
    names = sorted(standard | found | {"Affine", "Crop"})
    assert set(ask("tensorrt-rtx", "-c", ASK_TENSORRT, *names).splitlines()[-1].split()) == found
    # The two are of one family: only DeformConv, a plug-in's matter, is TensorRT's alone.
    assert operators.get("tensorrt-10.13") - found == {"DeformConv"}


@pytest.mark.toolchain
def test_the_vela_sets_are_what_its_own_report_says(tmp_path: Path) -> None:
    ask("vela", "-m", "ethosu.vela", "--supported-ops-report", folder=tmp_path)
    report = (tmp_path / "SUPPORTED_OPS.md").read_text()
    headings = {
        "vela-u55-u65": "Ethos-U55 and Ethos-U65 TFLite Summary Table",
        "vela-u85": "Ethos-U85 TFLite Summary Table",
    }
    for name, heading in headings.items():
        part = report.partition(f"## {heading}")[2].partition("\n## ")[0]
        assert operators.get(name) == set(re.findall(r"^\| ([A-Z0-9_]+) \|", part, re.MULTILINE))


def test_every_set_says_where_it_is_from() -> None:
    for name in operators.names():
        assert operators.get(name)
        text = (operators.HERE / f"{name}.toml").read_text()
        assert 'source = """' in text
    with pytest.raises(CatalogError, match="expected an operator set of ethos-u"):
        operators.get("nothing")
