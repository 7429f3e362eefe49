"""The LiteRT driver in its real toolchain: awkward models, what is refused, what falls, and the same bytes twice."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import BuildError
from compiler.toolchains import catalog, driver
from compiler.toolchains.driver import Answer
from compiler.toolchains.drivers import litert_layout as layout

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

Arrays = dict[str, np.ndarray]
RNG = np.random.default_rng(3)
KINDS = {
    "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64, "bool": TensorProto.BOOL,
}  # fmt: skip
WEIGHTS = RNG.normal(0, 0.3, (4, 4, 3, 3)).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], inputs: Arrays, outputs: list[str], constants: Arrays | None = None
) -> bytes:
    """An ONNX model; what its outputs are, ONNX finds out."""
    graph = helper.make_graph(
        nodes,
        "awkward",
        [helper.make_tensor_value_info(n, KINDS[a.dtype.name], a.shape) for n, a in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(made)
    known = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    known |= {info.name: info for info in made.graph.input}
    del made.graph.output[:]
    made.graph.output.extend(known[name] for name in outputs)
    return made.SerializeToString()


def packed(samples: list[Arrays]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{f"{i}:{n}": a for i, s in enumerate(samples) for n, a in s.items()})
    return buffer.getvalue()


def call(operation: str, files: dict[str, bytes], **options: Any) -> Answer:
    return driver.call(catalog.get("litert"), operation, files=files, options=options)


def converted(data: bytes, samples: list[Arrays]) -> Answer:
    shapes = {name: list(array.shape) for name, array in samples[0].items()}
    return call("convert", {"model.onnx": data, "samples.npz": packed(samples)}, shapes=shapes)


def answers(file: bytes, info: dict[str, Any], feed: Arrays) -> Arrays:
    """What a file says in the model's own terms, as its bindings describe."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    slots = {d["name"]: d for d in interpreter.get_input_details()}
    for bound in info["inputs"]:
        slot = slots[bound["tensor"]]
        array = feed[bound["name"]].transpose(bound["permutation"] or None)
        array = feed[bound["name"]] if not bound["permutation"] else array
        interpreter.set_tensor(slot["index"], np.ascontiguousarray(array.astype(slot["dtype"])))
    interpreter.invoke()
    found = {}
    slots = {d["name"]: d for d in interpreter.get_output_details()}
    for bound in info["outputs"]:
        array = interpreter.get_tensor(slots[bound["tensor"]]["index"])
        found[bound["name"]] = (
            array.transpose(bound["permutation"]) if bound["permutation"] else array
        )
    return found


def reference(data: bytes, feed: Arrays) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(data)
    names = [node.name for node in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def floats(*shape: int, dtype: str = "float32") -> np.ndarray:
    return (RNG.normal(size=shape) * 2).astype(dtype)


def square() -> tuple[bytes, Arrays]:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    inputs = {"x": floats(1, 4, 4, 4)}
    return model(nodes, inputs, ["y"], {"w": WEIGHTS}), inputs


def of_equal_shape() -> tuple[bytes, Arrays]:
    nodes = [
        helper.make_node("Sub", ["b", "a"], ["difference"]),
        helper.make_node("Mul", ["a", "b"], ["product"]),
        helper.make_node("Relu", ["a"], ["a_relu"]),
    ]
    inputs = {"b": floats(3, 3, 3), "a": floats(3, 3, 3)}
    return model(nodes, inputs, ["product", "a_relu", "difference"]), inputs


def ends_and_constants() -> tuple[bytes, Arrays]:
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["scalar"], keepdims=0),
        helper.make_node("Identity", ["k"], ["constant"]),
        helper.make_node("Identity", ["x"], ["copy"]),
    ]
    inputs = {"x": floats(2, 3)}
    constants = {"k": np.float32([1, 2, 3])}
    return model(nodes, inputs, ["scalar", "constant", "copy"], constants), inputs


def five_axes() -> tuple[bytes, Arrays]:
    inputs = {"x": floats(1, 3, 3, 3, 3)}
    return model([helper.make_node("Softmax", ["x"], ["y"], axis=1)], inputs, ["y"]), inputs


def of_dtype(dtype: str) -> tuple[bytes, Arrays]:
    array = floats(2, 3, dtype=dtype) if dtype.startswith("float") else floats(2, 3) > 0
    kind = "Not" if dtype == "bool" else "Add"
    inputs = {"x": array.astype(dtype)}
    names = ["x"] if kind == "Not" else ["x", "x"]
    return model([helper.make_node(kind, names, ["y"])], inputs, ["y"]), inputs


CASES = {
    "square": square,
    "of equal shape": of_equal_shape,
    "ends and constants": ends_and_constants,
    "five axes": five_axes,
    **{
        name: (lambda name=name: of_dtype(name)) for name in ("float16", "float64", "int64", "bool")
    },
}


@pytest.mark.parametrize("name", CASES)
def test_awkward_models_answer_in_their_own_terms(name: str) -> None:
    data, sample = CASES[name]()
    made = converted(data, [sample])
    assert made.info["difference"] <= layout.TOLERANCE
    assert made.info["kernels"] == "default"
    for forms in layout.probe_feeds([sample], 77):
        found = answers(made.files["model"], made.info, forms[0])
        for output, expected in reference(data, forms[0]).items():
            assert layout.distance(found[output], expected) <= layout.TOLERANCE


def conditional(cond: np.ndarray) -> tuple[bytes, Arrays]:
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])],
        )
        for kind, name in (("Relu", "then"), ("Neg", "else"))
    ]
    inputs = {"cond": cond, "x": floats(2)}
    node = helper.make_node("If", ["cond"], ["y"], then_branch=branches[0], else_branch=branches[1])
    return model([node], inputs, ["y"]), inputs


def test_a_branch_counts_only_when_both_sides_answer() -> None:
    data, inputs = conditional(np.array([True]))
    made = converted(data, [inputs])
    for flag in (True, False):
        feed = {**inputs, "cond": np.array([flag])}
        found = answers(made.files["model"], made.info, feed)["y"]
        assert layout.distance(found, reference(data, feed)["y"]) <= layout.TOLERANCE


def test_what_cannot_be_converted_is_refused_by_name() -> None:
    data, inputs = conditional(np.array(True))
    with pytest.raises(BuildError, match="operator If is not converted"):
        converted(data, [inputs])


def test_kernels_that_abort_cost_the_conversion_and_nothing_else() -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "bytes",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [4])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(BuildError, match=r"operator Add .*SIGABRT.*uint8"):
        converted(made.SerializeToString(), [{"x": np.uint8([1, 2, 3, 4])}])


def test_an_order_of_axes_that_nothing_tells_is_refused() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Mul", ["c", "nothing"], ["y"]),
    ]
    inputs = {"x": floats(1, 4, 4, 4)}
    data = model(nodes, inputs, ["y"], {"w": WEIGHTS, "nothing": np.float32(0)})
    made = converted(data, [inputs])
    # Told to leave inputs alone, the converter leaves nothing to tell.
    assert made.info["inputs"][0]["permutation"] == []


@pytest.fixture(scope="module")
def small() -> tuple[Answer, list[Arrays], bytes]:
    """A convolution, a division that the quantizer has trouble with, and a linear layer with a state."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["m", "state"], ["both"], axis=1),
        helper.make_node("Gemm", ["both", "u"], ["next"]),
        helper.make_node("Sigmoid", ["next"], ["y"]),
    ]
    inputs = {"x": floats(1, 4, 8, 8), "state": floats(1, 4)}
    constants = {"w": WEIGHTS, "b": floats(4), "u": floats(8, 4)}
    data = model(nodes, inputs, ["y", "next"], constants)
    samples = [{name: floats(*array.shape) for name, array in inputs.items()} for _ in range(6)]
    return converted(data, samples[:3]), samples, data


@pytest.fixture(scope="module")
def surveyed(small: tuple[Answer, list[Arrays], bytes]) -> Answer:
    made, samples, _ = small
    return call(
        "ranges",
        {"model.tflite": made.files["model"], "samples.npz": packed(samples)},
        inputs=made.info["inputs"], calibrators=["minmax", "mse"], levels=256, symmetric=False,
    )  # fmt: skip


def static(made: Answer, surveyed: Answer, **options: Any) -> Answer:
    return call(
        "quantize",
        {"model.tflite": made.files["model"], "ranges.json": surveyed.files["ranges"]},
        **{
            "mode": "static", "activation_bits": 8, "calibrator": "mse", "kept": [],
            "refuge": "float", "inputs": made.info["inputs"], **options,
        },
    )  # fmt: skip


def test_everything_is_the_same_when_built_twice(
    small: tuple[Answer, list[Arrays], bytes], surveyed: Answer
) -> None:
    made, samples, data = small
    assert converted(data, samples[:3]).files == made.files
    assert static(made, surveyed).files == static(made, surveyed).files


def test_a_model_with_a_state_is_quantized_and_its_kept_layers_are_not(
    small: tuple[Answer, list[Arrays], bytes], surveyed: Answer
) -> None:
    made, _, _ = small
    names = {layer["op"]: layer["name"] for layer in made.info["layers"]}
    assert {"CONV_2D", "FULLY_CONNECTED"} <= set(names)
    whole = static(made, surveyed)
    assert whole.info["quantized_weights"] == 2
    assert whole.info["fallen"] == {}
    assert {one["file_dtype"] for one in whole.info["inputs"]} == {"int8"}
    kept = static(made, surveyed, kept=[names["CONV_2D"]])
    assert names["CONV_2D"] not in kept.info["layers"]
    assert kept.info["quantized_weights"] == 1
    assert {one["file_dtype"] for one in kept.info["inputs"]} == {"float32"}
    wide = static(made, surveyed, kept=[names["CONV_2D"]], refuge="int16")
    assert {one["file_dtype"] for one in wide.info["inputs"]} == {"int16"}


def test_every_mode_makes_a_file(
    small: tuple[Answer, list[Arrays], bytes], surveyed: Answer
) -> None:
    made, _, _ = small
    files = {"model.tflite": made.files["model"]}
    for mode in ("dynamic", "weight_only", "fp16"):
        assert call("quantize", files, mode=mode).info["quantized_weights"] == 2
    assert static(made, surveyed, activation_bits=16).info["quantized_weights"] == 2
    whole = static(made, surveyed).info["layers"]
    assert static(made, surveyed, algorithm="MSE").info["layers"] == whole


def test_sensitivity_and_inspection_name_the_layers(
    small: tuple[Answer, list[Arrays], bytes], surveyed: Answer
) -> None:
    made, samples, _ = small
    names = [layer["name"] for layer in made.info["layers"]]
    files = {
        "model.tflite": made.files["model"],
        "ranges.json": surveyed.files["ranges"],
        "samples.npz": packed(samples),
    }
    costs = call(
        "sensitivity", files, mode="static", activation_bits=8, calibrator="mse", kept=[],
        refuge="float", inputs=made.info["inputs"], layers=names,
    ).info["layers"]  # fmt: skip
    assert {cost["name"] for cost in costs} == set(names)
    assert all(0 < cost["snr_db"] < 120 for cost in costs)
    seen = call(
        "inspect",
        {**files, "quantized.tflite": static(made, surveyed).files["model"]},
        inputs=made.info["inputs"],
    ).info
    assert {layer["op"] for layer in seen["layers"]} >= {"CONV_2D", "FULLY_CONNECTED"}
    assert all(layer["cosine"] > 0.98 for layer in seen["layers"])
    assert all(len(bars["counts"]) == 64 for bars in seen["weights"].values())


def test_ranges_hold_zero_and_what_weights_meet(surveyed: Answer) -> None:
    found = json.loads(surveyed.files["ranges"])
    for chosen in found["tensors"].values():
        for lo, hi in chosen.values():
            assert lo <= 0 <= hi
    assert np.shape(next(v for k, v in found["means"].items() if np.ndim(v) == 3)) == (3, 3, 4)
