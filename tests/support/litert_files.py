"""Small LiteRT files, written operator by operator."""

from __future__ import annotations

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

SHAPE = [1, 8, 8, 4]


def int8_chain(*names: str) -> bytes:
    """x int8 (1, 8, 8, 4), through operators of two equal inputs or of one, each on what came before."""
    model = schema.ModelT()
    model.version, model.buffers, model.operatorCodes = 3, [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.name, graph.tensors, graph.operators = b"main", [_int8("x")], []
    for at, name in enumerate(names):
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 1
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.outputs = at, [at + 1]
        operator.inputs = [at, at] if name in {"ADD", "MUL", "SUB"} else [at]
        if name in {"ADD", "MUL", "SUB"}:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name.title()}Options")
            operator.builtinOptions = getattr(schema, f"{name.title()}OptionsT")()
        graph.operators.append(operator)
        graph.tensors.append(_int8(f"y{at}"))
    graph.inputs, graph.outputs = [0], [len(names)]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _int8(name: str) -> schema.TensorT:
    scales = schema.QuantizationParametersT()
    scales.scale, scales.zeroPoint = np.array([0.05], np.float32), np.array([3], np.int64)
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.name = SHAPE, schema.TensorType.INT8, name.encode()
    tensor.buffer, tensor.quantization = 0, scales
    return tensor
