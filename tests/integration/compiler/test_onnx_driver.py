"""The ONNX driver in its real toolchain: prepared, ranged, quantized, explained, and never all or nothing."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from support import model_folders
from support.model_folders import info

from compiler.errors import BuildError
from compiler.toolchains import catalog, driver

pytestmark = pytest.mark.toolchain

CALIBRATORS = ["minmax", "mse", "percentile", "entropy"]
STATIC = {
    "activation": "uint8",
    "weight": "int8",
    "per_channel": True,
    "reduce_range": False,
    "operators": [],
    "tensorrt": False,
    "calibrator": "mse",
    "kept": [],
    "refuge": "float",
}
Feeds = list[dict[str, np.ndarray]]


def call(operation: str, files: dict[str, bytes], **options: Any) -> driver.Answer:
    return driver.call(catalog.get("onnx"), operation, files=files, options=options)


def sample_file(feeds: Feeds) -> bytes:
    buffer = io.BytesIO()
    arrays = {f"{i}:{name}": array for i, feed in enumerate(feeds) for name, array in feed.items()}
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


class Case:
    """A model that went through ``prepare`` and ``ranges``."""

    def __init__(self, model: onnx.ModelProto, feeds: Feeds, *, symmetric: bool = False) -> None:
        self.feeds, self.samples = feeds, sample_file(feeds)
        prepared = call("prepare", {"model.onnx": model.SerializeToString()})
        self.model, self.layers = prepared.files["model"], prepared.info["layers"]
        self.ranges = call(
            "ranges",
            {"model.onnx": self.model, "samples.npz": self.samples},
            calibrators=CALIBRATORS,
            levels=256,
            symmetric=symmetric,
        ).files["ranges"]

    def static(self, **options: Any) -> driver.Answer:
        files = {"model.onnx": self.model, "ranges.json": self.ranges}
        return call("static", files, **(STATIC | options))

    def snr_db(self, quantized: bytes) -> float:
        expected, found = (answers(data, self.feeds) for data in (self.model, quantized))
        return snr_db(expected, found)


def answers(data: bytes, feeds: Feeds) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, feed)[0] for feed in feeds])


def snr_db(expected: np.ndarray, found: np.ndarray) -> float:
    assert np.isfinite(found).all()
    noise = float(((expected - found) ** 2).sum())
    return float(10 * np.log10((expected**2).sum() / max(noise, 1e-30)))


def types_of(data: bytes) -> dict[str, int]:
    model = onnx.load_from_string(data)
    return {node.name: node.op_type for node in model.graph.node}


def feeds_of(count: int) -> Feeds:
    images = model_folders.images(count, 3).astype(np.float32).transpose(0, 3, 1, 2)
    return [{"image": (one[None] - 128) / 64} for one in images]


def graph_model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "made", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(model_folders.classifier(), feeds_of(24))


def test_preparing_names_every_node_once_and_gives_the_same_bytes(case: Case) -> None:
    model = onnx.load_from_string(case.model)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    again = call("prepare", {"model.onnx": model_folders.classifier().SerializeToString()})
    assert again.files["model"] == case.model
    assert [one["op"] for one in case.layers] == [
        "Conv", "Conv", "GlobalAveragePool", "Gemm", "Softmax",
    ]  # fmt: skip


def test_names_that_are_given_twice_become_unique() -> None:
    model = model_folders.classifier()
    for node in model.graph.node:
        node.name = "same"
    prepared = call("prepare", {"model.onnx": model.SerializeToString()})
    names = [one["name"] for one in prepared.info["layers"]]
    assert len(set(names)) == len(names) == 5
    assert names[0] == "same"


def test_ranges_say_every_calibrators_choice_for_every_activation(case: Case) -> None:
    document = json.loads(case.ranges)
    assert {"image", "r1", "r2", "logits", "probs"} <= set(document["tensors"])
    for found in document["tensors"].values():
        lo, hi = found["minmax"]
        assert set(found) == set(CALIBRATORS)
        assert all(lo <= a <= 0 <= b <= hi for a, b in found.values())
    for shown in document["histograms"].values():
        assert len(shown["counts"]) == 64
    relu = document["histograms"]["r1"]
    assert sum(relu["counts"]) == len(case.feeds) * 8 * 8 * 8
    assert not document["refused"]


@pytest.mark.parametrize(
    ("activation", "per_channel", "reduce_range"),
    [("uint8", True, True), ("int8", True, False), ("uint8", False, True), ("int8", False, False)],
)
def test_every_calibrator_and_granularity_answers_as_the_model_does(
    case: Case, activation: str, per_channel: bool, reduce_range: bool
) -> None:
    for calibrator in CALIBRATORS:
        found = case.static(
            activation=activation,
            per_channel=per_channel,
            reduce_range=reduce_range,
            calibrator=calibrator,
        )
        assert found.info["layers"] == [one["name"] for one in case.layers]
        assert found.info["fallen"] == {}
        assert found.info["quantized_weights"] == 3
        assert found.info["operators"]["QuantizeLinear"] >= 5
        assert case.snr_db(found.files["model"]) > 15, calibrator


def test_the_same_job_gives_the_same_bytes(case: Case) -> None:
    first, again = case.static(), case.static()
    assert first.files == again.files
    assert first.info == again.info


def test_kept_layers_stay_float(case: Case) -> None:
    kept = case.layers[0]["name"]
    found = case.static(kept=[kept])
    assert kept not in found.info["layers"]
    assert found.info["quantized_weights"] == 2
    model = onnx.load_from_string(found.files["model"])
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == 1}
    node = next(node for node in model.graph.node if node.name == kept)
    assert set(node.input[1:]) <= floats


def test_a_refuge_of_16_bits_is_finer_than_none(case: Case) -> None:
    kept = [one["name"] for one in case.layers]
    narrow = case.static(calibrator="minmax")
    wide = case.static(calibrator="minmax", kept=kept, refuge="int16")
    assert wide.info["layers"] == kept
    assert wide.info["quantized_weights"] == 3
    zero_points = {
        tensor.data_type for tensor in onnx.load_from_string(wide.files["model"]).graph.initializer
    }
    assert onnx.TensorProto.UINT16 in zero_points
    assert case.snr_db(wide.files["model"]) > case.snr_db(narrow.files["model"])


def test_only_the_operators_asked_for_are_quantized(case: Case) -> None:
    found = case.static(operators=["Conv"])
    types = types_of(found.files["model"])
    assert {types[name] for name in found.info["layers"]} == {"Conv"}
    assert found.info["quantized_weights"] == 2
    with pytest.raises(BuildError, match="expected layers that can be quantized"):
        case.static(operators=["LSTM"])


def test_tensorrts_form_is_symmetric_and_leaves_biases_and_outputs_alone() -> None:
    case = Case(model_folders.classifier(), feeds_of(8), symmetric=True)
    found = case.static(
        activation="int8", tensorrt=True, operators=["Conv", "Gemm"], refuge="float"
    )
    model = onnx.load_from_string(found.files["model"])
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert onnx.TensorProto.INT32 not in kinds
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_zero_point"):
            assert not numpy_helper.to_array(tensor).any()
    scaled = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert scaled == {"image", "r1", "flat"}
    assert case.snr_db(found.files["model"]) > 15


def test_biases_make_up_for_rounded_weights() -> None:
    rng = np.random.default_rng(5)
    constants = {"w": rng.normal(0, 1, (8, 4, 3, 3)) * 3.0 ** rng.integers(-3, 3, (8, 1, 1, 1))}
    constants["b"] = np.zeros(8)
    model = graph_model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        constants,
        [info("x", [1, 4, 9, 9])],
        [info("y", [1, 8, 7, 7])],
    )
    feeds: Feeds = [{"x": rng.uniform(1, 3, (1, 4, 9, 9)).astype(np.float32)} for _ in range(12)]
    case = Case(model, feeds)
    with_means = case.static(per_channel=False)
    document = json.loads(case.ranges)
    assert len(document.pop("means")["x"]) == 4
    case.ranges = json.dumps(document).encode()
    without = case.static(per_channel=False)
    expected = answers(case.model, feeds).mean(axis=(0, 1, 3, 4))
    shifts = [
        np.abs(answers(one.files["model"], feeds).mean(axis=(0, 1, 3, 4)) - expected).max()
        for one in (with_means, without)
    ]
    assert shifts[0] < shifts[1] / 2


def raising_model() -> onnx.ModelProto:
    """Two Gemms; the first adds a whole matrix, which the quantizer raises on per channel."""
    rng = np.random.default_rng(2)
    constants = {
        "w1": rng.normal(size=(6, 5)),
        "matrix": rng.normal(size=(2, 5)) * 1e5,
        "w2": rng.normal(size=(5, 3)),
        "b2": rng.normal(size=3),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "matrix"], ["h"], name="raises"),
        helper.make_node("Tanh", ["h"], ["t"], name="between"),
        helper.make_node("Gemm", ["t", "w2", "b2"], ["y"], name="works"),
    ]
    return graph_model(nodes, constants, [info("x", [2, 6])], [info("y", [2, 3])])


def test_where_the_quantizer_raises_on_one_operator_that_one_stays_float() -> None:
    rng = np.random.default_rng(3)
    feeds: Feeds = [{"x": rng.normal(size=(2, 6)).astype(np.float32)} for _ in range(6)]
    case = Case(raising_model(), feeds)
    found = case.static()
    assert set(found.info["fallen"]) == {"raises"}
    assert "ValueError" in found.info["fallen"]["raises"]
    assert found.info["layers"] == ["works"]
    assert case.snr_db(found.files["model"]) > 25


def test_a_bias_with_a_leading_one_is_flattened_and_quantized() -> None:
    model = raising_model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "matrix")
    bias.CopyFrom(numpy_helper.from_array(np.ones((1, 5), np.float32), "matrix"))
    feeds: Feeds = [{"x": np.full((2, 6), value, np.float32)} for value in (-1.0, 0.5, 2.0)]
    case = Case(model, feeds)
    found = case.static()
    assert found.info["fallen"] == {}
    assert found.info["layers"] == ["raises", "works"]
    assert case.snr_db(found.files["model"]) > 20


def test_layers_without_a_usable_range_stay_float() -> None:
    """One activation is never other than zero, and one has infinities: neither has a scale."""
    rng = np.random.default_rng(4)
    constants = {
        "w1": rng.normal(size=(4, 3, 1, 1)),
        "dead": np.full(4, -1e6),
        "w2": rng.normal(size=(4, 4, 1, 1)),
        "w3": rng.normal(size=(4, 4, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first"),
        helper.make_node("Conv", ["x", "w1", "dead"], ["c2"], name="negative"),
        helper.make_node("Relu", ["c2"], ["zero"], name="relu"),
        helper.make_node("Conv", ["zero", "w2"], ["c3"], name="of_zeros"),
        helper.make_node("Reciprocal", ["zero"], ["infinite"], name="inverse"),
        helper.make_node("Conv", ["infinite", "w3"], ["c4"], name="of_infinities"),
        helper.make_node("Atan", ["c4"], ["finite"], name="atan"),
        helper.make_node("Identity", ["c1"], ["y"], name="out"),
    ]
    outputs = [info("y", [1, 4, 5, 5]), info("c3", [1, 4, 5, 5])]
    model = graph_model(nodes, constants, [info("x", [1, 3, 5, 5])], outputs)
    model.graph.output.append(info("c4", [1, 4, 5, 5]))
    feeds: Feeds = [{"x": rng.normal(size=(1, 3, 5, 5)).astype(np.float32)} for _ in range(4)]
    case = Case(model, feeds)
    found = case.static()
    assert "first" in found.info["layers"]
    assert "zero" in found.info["fallen"]["of_zeros"]
    assert "no range" in found.info["fallen"]["of_infinities"]
    assert case.snr_db(found.files["model"]) > 25


def test_sensitivity_finds_the_layer_that_suffers(case: Case) -> None:
    """What goes into the Gemm gets a range that is far too small."""
    document = json.loads(case.ranges)
    lo, hi = document["tensors"]["flat"]["minmax"]
    document["tensors"]["flat"]["mse"] = [lo / 20, hi / 20]
    names = [one["name"] for one in case.layers]
    said: list[tuple[float, str]] = []
    files = {
        "model.onnx": case.model,
        "ranges.json": json.dumps(document).encode(),
        "samples.npz": case.samples,
    }
    found = driver.call(
        catalog.get("onnx"),
        "sensitivity",
        files=files,
        options=STATIC | {"layers": [*names, "no such layer"]},
        on_progress=lambda share, message: said.append((share, message)),
    ).info
    assert [one["name"] for one in found["layers"]] == names
    worst = min(found["layers"], key=lambda one: one["snr_db"])
    assert worst["name"] == names[3]
    assert set(found["fallen"]) == {"no such layer"}
    for one in found["layers"]:
        assert one["snr_db"] == pytest.approx(-10 * np.log10(max(one["noise"], 1e-20)), abs=1e-6)
    subset = call("sensitivity", files, **(STATIC | {"layers": names[3:4]}))
    assert subset.info["layers"] == [worst]
    assert all(0 <= share <= 1 for share, _ in said)


def test_inspecting_says_each_layers_error_and_how_weights_lie(case: Case) -> None:
    dynamic = {"per_channel": True, "reduce_range": True}
    for operation, options in (("static", STATIC), ("fp16", {}), ("dynamic", dynamic)):
        files = {"model.onnx": case.model, "ranges.json": case.ranges}
        quantized = call(operation, files, **options).files["model"]
        found = call(
            "inspect",
            {"model.onnx": case.model, "quantized.onnx": quantized, "samples.npz": case.samples},
        ).info
        assert [one["name"] for one in found["layers"]] == [one["name"] for one in case.layers]
        for one in found["layers"]:
            assert one["cosine"] > 0.95
            assert one["snr_db"] > 10
            assert one["max_abs"] < 2
    shapes = [shown["shape"] for shown in found["weights"].values()]
    assert shapes == [[16, 8, 3, 3], [8, 3, 3, 3], [4, 16]]
    for shown in found["weights"].values():
        assert sum(shown["counts"]) == np.prod(shown["shape"])
        assert shown["lo"] < shown["hi"]


def test_float16_keeps_the_models_own_inputs_and_outputs(case: Case) -> None:
    found = call("fp16", {"model.onnx": case.model})
    model = onnx.load_from_string(found.files["model"])
    for one in itertools.chain(model.graph.input, model.graph.output):
        assert one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    halves = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) >= 6
    assert case.snr_db(found.files["model"]) > 50
    kept = case.layers[0]["name"]
    blocked = call("fp16", {"model.onnx": case.model}, kept=[kept])
    assert kept not in blocked.info["layers"]
    assert len(blocked.files["model"]) > len(found.files["model"])


def test_dynamic_quantization_takes_weights_of_matrix_products(case: Case) -> None:
    found = call("dynamic", {"model.onnx": case.model}, per_channel=True, reduce_range=True)
    assert found.info["quantized_weights"] == 1
    assert found.info["fallen"] == {}
    assert found.info["layers"] == [one["name"] for one in case.layers if one["op"] == "Gemm"]
    assert case.snr_db(found.files["model"]) > 20
    assert (
        call("dynamic", {"model.onnx": case.model}, per_channel=True, reduce_range=True).files
        == found.files
    )


def test_large_activations_are_read_in_parts() -> None:
    """A chain of 64 activations of 8 MiB each, which would be half a GiB together."""
    names = [f"a{i}" for i in range(65)]
    nodes = [
        helper.make_node("Sigmoid", [one], [other], name=other)
        for one, other in itertools.pairwise(names)
    ]
    shape: list[int | str] = [1, 8, 512, 512]
    model = graph_model(nodes, {}, [info("a0", shape)], [info("a64", shape)])
    data = np.random.default_rng(1).normal(size=(1, 8, 512, 512)).astype(np.float32)
    prepared = call("prepare", {"model.onnx": model.SerializeToString()})
    found = call(
        "ranges",
        {"model.onnx": prepared.files["model"], "samples.npz": sample_file([{"a0": data}])},
        calibrators=["minmax"],
        levels=256,
        symmetric=False,
    )
    assert (found.info["tensors"], found.info["samples"]) == (65, 1)
    assert found.peak_memory_mib < 500
    lo, hi = json.loads(found.files["ranges"])["tensors"]["a0"]["minmax"]
    assert (lo, hi) == (float(data.min()), float(data.max()))


@pytest.mark.corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", ["magika_v3_3", "mnist8_cnn"])
def test_real_models_that_the_quantizer_raises_on_are_quantized_per_channel(
    corpus: Path, name: str
) -> None:
    from compiler.graph import onnx_model

    meta = json.loads((corpus / name / "meta.json").read_text())
    with np.load(corpus / name / "calib.npz") as archive:
        arrays = {
            key: archive[key][:20].astype(feed.get("cast", "float32")) / feed.get("div", 1)
            for key, feed in meta["feed"].items()
        }
    types = {key: meta["feed"][key].get("cast", "float32") for key in arrays}
    feeds: Feeds = [
        {key: array[i : i + 1].astype(types[key]) for key, array in arrays.items()}
        for i in range(20)
    ]
    upgraded = onnx_model.load(corpus / name / "model.onnx").upgraded
    case = Case(onnx.load_from_string(upgraded), feeds)
    found = case.static(operators=["Conv", "Gemm", "MatMul"])
    assert found.info["fallen"] == {}
    assert found.info["quantized_weights"] >= 3
    assert case.snr_db(found.files["model"]) > 20
