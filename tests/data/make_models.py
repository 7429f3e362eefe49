"""Make the small model files of `tests/data/models` (checked in, so that tests need no converter).

Run it with the `dev` extra installed: ``python tests/data/make_models.py``. All of them are made of
the same seeded weights:

- ``classify.onnx``, ``classify.tflite``: image float32 (any, 3, 8, 8), mean per channel, linear,
  softmax over 4 classes; the LiteRT file is NHWC and has names of its own.
- ``classify_int8.tflite``: the same with int8 ends.
- ``fixed.tflite``: the same, reshaped to one row first, so that it takes one sample at a time only.
- ``identity.onnx``: one input and one output of each datatype, float and integer and bool.
- ``pair.onnx``: (left float32 (any, 2), right int64 (any, 2)) -> sum float32 (any, 2), largest float32 ().
"""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

MODELS = Path(__file__).parent / "models"
WEIGHTS = np.random.default_rng(7).normal(0, 2, (4, 3)).astype(np.float32)
BIAS = np.array([0.1, -0.2, 0.3, 0.0], np.float32)
IDENTITY = {
    "bool": TensorProto.BOOL, "int8": TensorProto.INT8, "int16": TensorProto.INT16,
    "int32": TensorProto.INT32, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16, "uint32": TensorProto.UINT32, "uint64": TensorProto.UINT64,
    "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE,
}  # fmt: skip


def save_onnx(name: str, graph: onnx.GraphProto) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (MODELS / name).write_bytes(model.SerializeToString())


def info(name: str, kind: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def classify_onnx() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Gemm", ["mean", "w", "b"], ["logits"], transB=1),
            helper.make_node("Softmax", ["logits"], ["probs"], axis=1),
        ],
        "classify",
        [info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [info("probs", TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(WEIGHTS, "w"), onnx.numpy_helper.from_array(BIAS, "b")],
    )
    save_onnx("classify.onnx", graph)


def identity_onnx() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{n}_in"], [f"{n}_out"]) for n in IDENTITY],
        "identity",
        [info(f"{n}_in", kind, ["n", 2]) for n, kind in IDENTITY.items()],
        [info(f"{n}_out", kind, ["n", 2]) for n, kind in IDENTITY.items()],
    )
    save_onnx("identity.onnx", graph)


def pair_onnx() -> None:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["right"], ["real"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["left", "real"], ["sum"]),
            helper.make_node("ReduceMax", ["sum"], ["largest"], keepdims=0),
        ],
        "pair",
        [info("left", TensorProto.FLOAT, ["n", 2]), info("right", TensorProto.INT64, ["n", 2])],
        [info("sum", TensorProto.FLOAT, ["n", 2]), info("largest", TensorProto.FLOAT, [])],
    )
    save_onnx("pair.onnx", graph)


class TfLite:
    """A graph in the making, on the schema of LiteRT."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT(tensors=[], operators=[], name="main")
        self.model = schema.ModelT(
            version=3, operatorCodes=[], subgraphs=[self.graph], buffers=[schema.BufferT()]
        )

    def tensor(self, name, shape, *, data=None, kind="FLOAT32", scale=0.0, zero=0, batched=True):
        buffer = 0
        if data is not None:
            self.model.buffers.append(schema.BufferT(data=list(data.tobytes())))
            buffer = len(self.model.buffers) - 1
        quantization = (
            schema.QuantizationParametersT(scale=[scale], zeroPoint=[zero]) if scale else None
        )
        signature = [-1, *shape[1:]] if data is None and batched else None
        self.graph.tensors.append(
            schema.TensorT(
                shape=list(shape), type=getattr(schema.TensorType, kind), buffer=buffer, name=name,
                quantization=quantization, shapeSignature=signature, hasRank=True,
            )
        )  # fmt: skip
        return len(self.graph.tensors) - 1

    def op(self, name, inputs, outputs, options_kind=None, options=None):
        code = getattr(schema.BuiltinOperator, name)
        self.model.operatorCodes.append(
            schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=1)
        )
        self.graph.operators.append(
            schema.OperatorT(
                opcodeIndex=len(self.model.operatorCodes) - 1, inputs=inputs, outputs=outputs,
                builtinOptionsType=getattr(schema.BuiltinOptions, options_kind or "NONE"),
                builtinOptions=options,
            )
        )  # fmt: skip

    def head(self, mean: int, *, batched: bool) -> int:
        weights = self.tensor("w", WEIGHTS.shape, data=WEIGHTS)
        bias = self.tensor("b", BIAS.shape, data=BIAS)
        logits = self.tensor("logits", (1, 4), batched=batched)
        probs = self.tensor("StatefulPartitionedCall:0", (1, 4), batched=batched)
        self.op(
            "FULLY_CONNECTED", [mean, weights, bias], [logits],
            "FullyConnectedOptions", schema.FullyConnectedOptionsT(),
        )  # fmt: skip
        self.op("SOFTMAX", [logits], [probs], "SoftmaxOptions", schema.SoftmaxOptionsT(beta=1.0))
        return probs

    def mean(self, image: int, *, batched: bool = True) -> int:
        axes = self.tensor("axes", (2,), data=np.array([1, 2], np.int32), kind="INT32")
        mean = self.tensor("mean", (1, 3), batched=batched)
        self.op("MEAN", [image, axes], [mean], "ReducerOptions", schema.ReducerOptionsT())
        return mean

    def save(self, name: str, inputs: list[int], outputs: list[int]) -> None:
        self.graph.inputs, self.graph.outputs = inputs, outputs
        builder = flatbuffers.Builder(4096)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        (MODELS / name).write_bytes(bytes(builder.Output()))


def classify_tflite() -> None:
    net = TfLite()
    image = net.tensor("serving_default_image:0", (1, 8, 8, 3))
    probs = net.head(net.mean(image), batched=True)
    net.save("classify.tflite", [image], [probs])


def classify_int8_tflite() -> None:
    net = TfLite()
    image = net.tensor("image_int8", (1, 8, 8, 3), kind="INT8", scale=1 / 32, zero=-3)
    real = net.tensor("image_real", (1, 8, 8, 3))
    net.op("DEQUANTIZE", [image], [real])
    probs = net.head(net.mean(real), batched=True)
    out = net.tensor("probs_int8", (1, 4), kind="INT8", scale=1 / 256, zero=-128)
    net.op("QUANTIZE", [probs], [out])
    net.save("classify_int8.tflite", [image], [out])


def fixed_tflite() -> None:
    net = TfLite()
    image = net.tensor("image", (1, 8, 8, 3), batched=False)
    mean = net.mean(image, batched=False)
    shape = net.tensor("shape", (2,), data=np.array([1, 3], np.int32), kind="INT32")
    row = net.tensor("row", (1, 3), batched=False)
    net.op(
        "RESHAPE", [mean, shape], [row], "ReshapeOptions", schema.ReshapeOptionsT(newShape=[1, 3])
    )
    probs = net.head(row, batched=False)
    net.save("fixed.tflite", [image], [probs])


if __name__ == "__main__":
    MODELS.mkdir(exist_ok=True)
    for make in (
        classify_onnx, identity_onnx, pair_onnx, classify_tflite, classify_int8_tflite, fixed_tflite,
    ):  # fmt: skip
        make()
    for path in sorted(MODELS.iterdir()):
        print(f"{path.name}: {path.stat().st_size} bytes")
