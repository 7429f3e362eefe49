"""The runtimes on real files: the same artifact gives the same answers, whatever the file does inside."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from support import artifacts

from agent.errors import InferenceError, LoadError, TensorError
from agent.runtimes.port import Options
from agent.runtimes.registry import open_runtime
from fleet.artifact.manifest import Binding, InputSpec, TensorSpec

pytestmark = pytest.mark.agent

FILES = ["classify.onnx", "classify.tflite", "fixed.tflite"]


@pytest.fixture(autouse=True)
def _needs(request):
    file = getattr(request.node, "callspec", None)
    name = str(file.params.get("file", "")) if file else ""
    if name.endswith(".tflite"):
        pytest.importorskip("ai_edge_litert")
    else:
        pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("file", FILES)
def test_answers_are_the_models_own(file: str, exact: bool) -> None:
    runtime = open_runtime(
        artifacts.verified(artifacts.classify(file)), Options(threads=1, exact=exact)
    )
    for n in (1, 5, 2, 5):
        batch = artifacts.images(n, seed=n)
        answer = runtime.run({"image": batch})
        np.testing.assert_allclose(answer["probs"], artifacts.probabilities(batch), atol=1e-5)
        assert answer["probs"].dtype == np.float32
    runtime.close()


@pytest.mark.parametrize("file", ["classify_int8.tflite"])
def test_quantized_ends_are_hidden(file: str) -> None:
    runtime = open_runtime(artifacts.verified(artifacts.classify(file)))
    batch = np.clip(artifacts.images(6), -3, 3)
    answer = runtime.run({"image": batch})["probs"]
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, artifacts.probabilities(batch), atol=0.03)


@pytest.mark.parametrize("file", ["identity.onnx"])
def test_every_datatype_goes_through(file: str) -> None:
    inputs = [InputSpec(name=f"{d}_in", dtype=d, shape=[None, 2]) for d in artifacts.DTYPES]
    outputs = [TensorSpec(name=f"{d}_out", dtype=d, shape=[None, 2]) for d in artifacts.DTYPES]
    runtime = open_runtime(artifacts.verified(artifacts.make(file, inputs, outputs)))
    feeds = {f"{d}_in": np.array([[0, 1], [1, 0], [1, 1]]).astype(d) for d in artifacts.DTYPES}
    answer = runtime.run(feeds)
    for dtype in artifacts.DTYPES:
        assert answer[f"{dtype}_out"].dtype == dtype
        np.testing.assert_array_equal(answer[f"{dtype}_out"], feeds[f"{dtype}_in"])


LEFT = InputSpec(name="left", dtype="float32", shape=[None, 2])
RIGHT = InputSpec(name="right", dtype="int64", shape=[None, 2])
SUM = TensorSpec(name="sum", dtype="float32", shape=[None, 2])
LARGEST = TensorSpec(name="largest", dtype="float32", shape=[])


@pytest.mark.parametrize(
    ("feeds", "told"),
    [
        ({}, "expected the inputs ['left', 'right'], found []"),
        ({"left": 1, "right": 1, "extra": 1}, "found ['extra', 'left', 'right']"),
        ({"left": np.zeros((1, 2)), "right": 1}, "'left': expected dtype float32, found float64"),
        (
            {"left": np.zeros((1, 2), ">f4"), "right": 1},
            "'left': expected dtype float32, found >f4",
        ),
        (
            {"left": np.zeros((1, 3), "f4"), "right": 1},
            "'left': expected shape [any, 2], found [1, 3]",
        ),
        ({"left": np.zeros(2, "f4"), "right": 1}, "'left': expected shape [any, 2], found [2]"),
        ({"left": np.zeros((0, 2), "f4"), "right": 1}, "'left': expected a batch of at least 1"),
        ({"left": np.zeros((3, 2), "f4"), "right": 1}, "'right': expected a batch of 3"),
    ],
)
def test_misfits_are_refused_with_what_was_expected(feeds, told) -> None:
    runtime = open_runtime(artifacts.verified(artifacts.make("pair.onnx", [LEFT, RIGHT], [SUM])))
    good = {"left": np.ones((1, 2), "f4"), "right": np.ones((1, 2), "i8"), "extra": np.ones(1)}
    asked = {k: good[k] if isinstance(v, int) else v for k, v in feeds.items()}
    with pytest.raises(TensorError) as caught:
        runtime.run(asked)
    assert told in str(caught.value)


def test_fixed_batch_refuses_outputs_that_cannot_be_split() -> None:
    package = artifacts.make("pair.onnx", [LEFT, RIGHT], [SUM, LARGEST], fixed_batch=True)
    runtime = open_runtime(artifacts.verified(package))
    one = {"left": np.ones((1, 2), "f4"), "right": np.ones((1, 2), "i8")}
    assert runtime.run(one)["largest"] == 2
    with pytest.raises(TensorError, match="one sample at a time"):
        runtime.run({name: np.repeat(array, 2, 0) for name, array in one.items()})


@pytest.mark.parametrize("file", ["fixed.tflite"])
def test_a_shape_that_the_file_refuses_leaves_the_runtime_usable(file: str) -> None:
    runtime = open_runtime(artifacts.verified(artifacts.classify(file, fixed_batch=False)))
    for _ in range(2):
        with pytest.raises((TensorError, InferenceError), match=r"LiteRT|expected shape"):
            runtime.run({"image": artifacts.images(3)})
        batch = artifacts.images(1)
        np.testing.assert_allclose(
            runtime.run({"image": batch})["probs"], artifacts.probabilities(batch), atol=1e-5
        )


def test_integers_that_the_file_cannot_hold_are_refused() -> None:
    wide = msgspec.structs.replace(RIGHT, name="int8_in")
    inputs = [
        wide if d == "int8" else InputSpec(name=f"{d}_in", dtype=d, shape=[None, 2])
        for d in artifacts.DTYPES
    ]
    package = artifacts.make(
        "identity.onnx",
        inputs,
        [TensorSpec(name="int8_out", dtype="int64", shape=[None, 2])],
        input_bindings=[Binding(name="int8_in", tensor="int8_in", file_dtype="int8")],
        output_bindings=[Binding(name="int8_out", tensor="int8_out", file_dtype="int8")],
    )
    runtime = open_runtime(artifacts.verified(package))
    feeds = {spec.name: np.ones((1, 2), spec.dtype) for spec in inputs}
    assert runtime.run(feeds)["int8_out"].dtype == np.int64
    with pytest.raises(TensorError, match="from -128 to 127"):
        runtime.run(feeds | {"int8_in": np.array([[300, 0]])})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"inputs": [InputSpec(name="im", dtype="float32", shape=[None, 2])]}, "input 'im'"),
        ({"outputs": [TensorSpec(name="p", dtype="float32", shape=[None, 4])]}, "output 'p'"),
        ({"input_bindings": [Binding(name="image", tensor="x")]}, "tensor 'x'"),
        (
            {"inputs": [InputSpec(name="image", dtype="float16", shape=[None, 3, 8, 8])]},
            "to be float16, found float32",
        ),
        (
            {"input_bindings": [Binding(name="image", tensor="image", permutation=[0, 0, 1, 2])]},
            "a permutation of 4 axes",
        ),
        ({"inputs": []}, "asks for inputs ['image']"),
    ],
)
def test_a_file_that_is_not_what_the_manifest_says_is_refused(changes, told) -> None:
    with pytest.raises(LoadError) as caught:
        open_runtime(artifacts.verified(artifacts.classify(**changes)))
    assert told in str(caught.value)


@pytest.mark.parametrize("file", ["classify.onnx", "classify.tflite"])
def test_junk_is_refused_by_loading(file: str) -> None:
    content = artifacts.classify(file)
    payload = content.payload[:40] + b"\xff" * (len(content.payload) - 40)
    with pytest.raises(LoadError, match="refused the model"):
        open_runtime(artifacts.verified(msgspec.structs.replace(content, payload=payload)))


def test_quantized_file_without_a_scale_is_refused() -> None:
    package = artifacts.make(
        "identity.onnx",
        [
            InputSpec(
                name=f"{d}_in", dtype="float32" if d == "int8" else d, shape=[None, 2]
            )
            for d in artifacts.DTYPES
        ],
        [TensorSpec(name="bool_out", dtype="bool", shape=[None, 2])],
        input_bindings=[Binding(name="int8_in", tensor="int8_in", file_dtype="int8")],
    )  # fmt: skip
    with pytest.raises(LoadError, match="no scale"):
        open_runtime(artifacts.verified(package))
