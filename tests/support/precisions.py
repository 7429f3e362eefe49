"""One small convolutional model in fp32, in fp16 (casts at its ends) and in int8 (QDQ), as TensorRT wants them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "int8": TensorProto.FLOAT}


def model(precision: str, *, seed: int = 3) -> bytes:
    """Two convolutions and a classifier over images of shape (batch, 3, 16, 16).

    Args:
        precision: ``fp32``, ``fp16`` or ``int8``.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], []
    kind = _KINDS[precision]

    def constant(name: str, array: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(array, name))
        return name

    def real(name: str, shape: tuple[int, ...]) -> str:
        array = rng.normal(0, 0.2, shape).astype(helper.tensor_dtype_to_np_dtype(kind))
        if precision != "int8":
            return constant(name, array)
        scale = np.float32(np.abs(array).max() / 127)
        constant(f"{name}_q", np.clip(np.rint(array / scale), -127, 127).astype(np.int8))
        return dequantize(f"{name}_q", name, scale)

    def dequantize(source: str, name: str, scale: np.float32) -> str:
        constant(f"{name}_scale", np.float32(scale).reshape(()))
        constant(f"{name}_zero", np.int8(0).reshape(()))
        arguments = [source, f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("DequantizeLinear", arguments, [name], name=f"dq_{name}"))
        return name

    def quantized(source: str) -> str:
        if precision != "int8":
            return source
        name = f"{source}_dq"
        arguments = [source, f"{name}_scale", f"{name}_zero"]
        nodes.append(
            helper.make_node("QuantizeLinear", arguments, [f"{source}_q8"], name=f"q_{name}")
        )
        return dequantize(f"{source}_q8", name, np.float32(0.05))

    def cast(source: str, name: str, to: int) -> str:
        nodes.append(helper.make_node("Cast", [source], [name], name=name, to=to))
        return name

    image = cast("image", "image_cast", kind) if precision == "fp16" else "image"
    for layer, shape in (("one", (8, 3, 3, 3)), ("two", (16, 8, 3, 3))):
        arguments = [quantized(image), real(f"w_{layer}", shape)]
        nodes.append(
            helper.make_node("Conv", arguments, [layer], name=f"conv_{layer}", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Relu", [layer], [f"{layer}_relu"], name=f"relu_{layer}"))
        image = f"{layer}_relu"
    nodes.append(helper.make_node("GlobalAveragePool", [image], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"))
    nodes.append(
        helper.make_node("MatMul", [quantized("flat"), real("w_fc", (16, 4))], ["fc"], name="fc")
    )
    last = cast("fc", "fc_cast", TensorProto.FLOAT) if precision == "fp16" else "fc"
    nodes.append(helper.make_node("Softmax", [last], ["probs"], name="softmax", axis=1))
    graph = helper.make_graph(
        nodes,
        precision,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["n", 4])],
        weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    data: bytes = made.SerializeToString()
    return data
