"""Driver of the toolchain ``litert``: ONNX to LiteRT, and quantization of the result.

Runs inside that toolchain's environment (see `compiler.toolchains.driver`), as a script of its own.

Rules:
- onnx2tf permutes 4-D tensors, and 3-D ones too. Which file tensor stands for which model tensor, and in
  which order of axes, is found by shape and proved by running both; a conversion that does not
  answer as ONNX Runtime does is an error.
- The converter's exit status is not believed: only a file that the interpreter can run counts.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

CANONICAL = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
RELATIVE_TOLERANCE = 1e-3
MAX_COMBINATIONS = 64


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Import everything that the other operations need."""
    import ai_edge_litert.interpreter
    import ai_edge_quantizer
    import onnx
    import onnx2tf
    import onnxruntime
    import onnxsim

    modules = (ai_edge_litert, ai_edge_quantizer, onnx, onnx2tf, onnxruntime, onnxsim)
    return {"modules": [module.__name__ for module in modules]}


def convert(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` and ``samples.npz`` (``INDEX:NAME``) to ``model.tflite`` in float32.

    Options: ``shapes``, the shape per input that the file is fixed to.
    """
    import onnx
    import onnxsim

    model = fix_shapes(onnx.load(str(inputs / "model.onnx")), options["shapes"])
    samples = read_samples(inputs / "samples.npz")
    expected = reference_answers(model, samples)
    set_output_shapes(model, expected[0])
    simplified, valid = onnxsim.simplify(model)
    # The converter falls back to shapes computed at run time where a tensor's shape is not written down.
    model = onnx.shape_inference.infer_shapes(simplified if valid else model)
    kept = inputs_to_keep(model)
    everything = [info.name for info in model.graph.input if rank(info) >= 3]
    worst = ""
    for attempt, keep in enumerate(unique([kept, everything, []])):
        try:
            file = run_converter(model, outputs / f"attempt{attempt}", keep)
            fitted = fit(file, model, samples, expected)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the next attempt may do better
            worst = f"{type(error).__name__}: {error}"
            continue
        if fitted["difference"] <= RELATIVE_TOLERANCE:
            shutil.copyfile(file, outputs / "model.tflite")
            return {"files": {"model": "model.tflite"}, **fitted, **operators(file)}
        worst = f"answers differ from ONNX Runtime's by {fitted['difference']:.2g} of their range"
    raise RuntimeError(f"onnx2tf made no file that answers as the ONNX model does: {worst}")


def quantize(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite`` and ``samples.npz`` to ``model.tflite`` by ai-edge-quantizer.

    Options: ``mode`` (static, dynamic, weight_only, fp16), ``activation_bits``, ``weight_bits``,
    ``algorithm``, ``operators`` (all when empty), ``float_operators``, and ``inputs``: the bindings that `convert` found.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer

    source = inputs / "model.tflite"
    quantization = quantizer.Quantizer(str(source))
    quantization.load_quantization_recipe(recipe(options))
    statistics = None
    if quantization.need_calibration:
        signature = next(iter(Interpreter(str(source)).get_signature_list()))
        samples = read_samples(inputs / "samples.npz")
        feeds = [to_signature(source, sample, options["inputs"]) for sample in samples]
        statistics = quantization.calibrate({signature: feeds}, num_threads=2)
    result = quantization.quantize(statistics)
    file = outputs / "model.tflite"
    file.write_bytes(bytes(result.quantized_model))
    return {"files": {"model": "model.tflite"}, **dtypes(file), **operators(file)}


def recipe(options: dict[str, Any]) -> list[dict[str, Any]]:
    """An ai-edge-quantizer recipe from ours."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = recipe_manager.RecipeManager()
    every = qtyping.TFLOperationName.ALL_SUPPORTED
    mode, bits = options["mode"], options.get("weight_bits", 8)
    algorithm = AlgorithmName[options.get("algorithm", "MIN_MAX_UNIFORM_QUANT")]
    if mode == "static":
        chosen = [qtyping.TFLOperationName[name] for name in options["operators"]] or [every]
        for operator in chosen:
            manager.add_static_config(
                ".*", operator, options["activation_bits"], bits, algorithm_key=algorithm
            )
    elif mode == "dynamic":
        manager.add_dynamic_config(".*", every, bits, algorithm_key=algorithm)
    elif mode == "weight_only":
        manager.add_weight_only_config(".*", every, bits, algorithm_key=algorithm)
    elif mode == "fp16":
        half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
        manager.add_quantization_config(
            ".*",
            every,
            op_config=qtyping.OpQuantizationConfig(
                weight_tensor_config=half,
                compute_precision=qtyping.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key=AlgorithmName.FLOAT_CASTING,
        )
    else:
        raise ValueError(f"expected the mode static, dynamic, weight_only or fp16, found {mode!r}")
    for name in options.get("float_operators", []):
        manager.add_quantization_config(
            ".*", qtyping.TFLOperationName[name], algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    found: list[dict[str, Any]] = manager.get_quantization_recipe()
    return found


# --- ONNX side --------------------------------------------------------------------------------------


def fix_shapes(model: Any, shapes: dict[str, list[int]]) -> Any:
    """The model with every input of a fixed shape; stale shapes elsewhere are dropped."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        for dim, size in zip(dims, shapes[info.name], strict=True):
            dim.Clear()
            dim.dim_value = size
    del model.graph.value_info[:]
    for info in model.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    return model


def set_output_shapes(model: Any, answers: dict[str, Any]) -> None:
    """Write down the shapes that the outputs turn out to have."""
    for info in model.graph.output:
        dims = info.type.tensor_type.shape.dim
        del dims[:]
        for size in answers[info.name].shape:
            dims.add().dim_value = size


def rank(info: Any) -> int:
    """Number of axes of an input."""
    return len(info.type.tensor_type.shape.dim)


def inputs_to_keep(model: Any) -> list[str]:
    """Inputs that the model itself turns from channels-last: the converter should leave them alone."""
    kept = []
    for info in model.graph.input:
        users = [node for node in model.graph.node if info.name in node.input]
        convolved = any(node.op_type in {"Conv", "ConvTranspose", "MaxPool"} for node in users)
        if rank(info) >= 3 and not convolved:
            kept.append(info.name)
    return kept


def unique(attempts: list[list[str]]) -> Iterator[list[str]]:
    """Each attempt once, in order."""
    seen: list[list[str]] = []
    for attempt in attempts:
        if attempt not in seen:
            seen.append(attempt)
            yield attempt


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Feeds from an npz whose arrays are named ``INDEX:NAME``."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            index, _, name = key.partition(":")
            found.setdefault(int(index), {})[name] = archive[key]
    return [found[index] for index in sorted(found)]


def reference_answers(model: Any, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ONNX Runtime answers, per sample."""
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    return [dict(zip(names, session.run(None, sample), strict=True)) for sample in samples]


def run_converter(model: Any, folder: Path, keep: list[str]) -> Path:
    """Call onnx2tf on a copy (it writes into its input)."""
    import onnx
    import onnx2tf

    folder.mkdir()
    copy = folder / "model.onnx"
    onnx.save(model, str(copy))
    onnx2tf.convert(
        input_onnx_file_path=str(copy),
        output_folder_path=str(folder / "tflite"),
        tflite_backend="flatbuffer_direct",
        keep_shape_absolutely_input_names=keep or None,
        not_use_onnxsim=True,
        non_verbose=True,
    )
    return folder / "tflite" / "model_float32.tflite"


# --- LiteRT side ------------------------------------------------------------------------------------


def fit(
    file: Path,
    model: Any,
    samples: list[dict[str, Any]],
    expected: list[dict[str, Any]],
) -> dict[str, Any]:
    """Find which tensor is which and in which order of axes, so that the answers agree best."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    sample = samples[0]
    inputs = match([i.name for i in model.graph.input], interpreter.get_input_details())
    outputs = match([o.name for o in model.graph.output], interpreter.get_output_details())
    choices = [
        list(permutations(sample[name].shape, tuple(detail["shape"]), canonical_first=True))
        for name, detail in inputs.items()
    ]
    best: dict[str, Any] = {"difference": np.inf}
    for picked in itertools.islice(itertools.product(*choices), MAX_COMBINATIONS):
        chosen = dict(zip(inputs, picked, strict=True))
        found = [run(interpreter, inputs, outputs, chosen, feed) for feed in samples]
        bindings, difference = fit_outputs(outputs, found, expected)
        if difference < best["difference"]:
            best = {
                "difference": difference,
                "inputs": [binding(n, inputs[n], chosen[n]) for n in inputs],
                "outputs": bindings,
            }
        if difference <= RELATIVE_TOLERANCE:
            break
    if not np.isfinite(best["difference"]):
        raise RuntimeError("no order of axes fits the file's tensors to the model's")
    return best


def match(names: list[str], details: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Details of the file's tensors by the model's names: by name where they are kept, else in order."""
    if len(names) != len(details):
        raise RuntimeError(f"expected {len(names)} tensors {names}, found {len(details)}")
    by_name = {bare(detail["name"]): detail for detail in details}
    if set(by_name) == set(names):
        return {name: by_name[name] for name in names}
    return dict(zip(names, details, strict=True))


def bare(name: str) -> str:
    """A tensor's name without what a signature puts around it."""
    return name.removeprefix("serving_default_").removesuffix(":0")


def permutations(
    source: tuple[int, ...], target: tuple[int, ...], *, canonical_first: bool
) -> Iterator[tuple[int, ...]]:
    """Orders of axes that turn shape `source` into `target`, the likely ones first."""
    axes = len(source)
    if axes != len(target):
        return
    identity = tuple(range(axes))
    usual = CANONICAL.get(axes, identity)
    if not canonical_first:
        usual = tuple(int(i) for i in np.argsort(usual))
    rest = itertools.permutations(range(axes)) if axes <= 5 else []
    for order in dict.fromkeys([identity, usual, *rest]):
        if tuple(source[i] for i in order) == target:
            yield order


def run(
    interpreter: Any,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    chosen: dict[str, tuple[int, ...]],
    feed: dict[str, Any],
) -> dict[str, Any]:
    """The file's raw answers to one sample."""
    for name, detail in inputs.items():
        array = np.ascontiguousarray(feed[name].transpose(chosen[name]))
        interpreter.set_tensor(detail["index"], array.astype(detail["dtype"]))
    interpreter.invoke()
    return {name: interpreter.get_tensor(detail["index"]) for name, detail in outputs.items()}


def fit_outputs(
    outputs: dict[str, Any], found: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], float]:
    """The order of axes of each output that agrees best, and the worst difference that remains."""
    bindings, worst = [], 0.0
    for name, detail in outputs.items():
        target = expected[0][name].shape
        scored = [
            (max(distance(f[name].transpose(p), e[name]) for f, e in zip(found, expected, strict=True)), i, p)
            for i, p in enumerate(permutations(found[0][name].shape, target, canonical_first=False))
        ]  # fmt: skip
        if not scored:
            return [], float("inf")
        score, _, order = min(scored)
        worst = max(worst, score)
        bindings.append(binding(name, detail, order))
    return bindings, worst


def distance(found: Any, expected: Any) -> float:
    """Largest difference, relative to the range of what is expected."""
    if found.size == 0:
        return 0.0
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6))


def binding(name: str, detail: dict[str, Any], order: tuple[int, ...]) -> dict[str, Any]:
    """A binding as the manifest has it."""
    plain = list(order) == list(range(len(order)))
    return {
        "name": name,
        "tensor": detail["name"],
        "permutation": [] if plain else list(order),
        "file_dtype": np.dtype(detail["dtype"]).name,
    }


def to_signature(
    file: Path, sample: dict[str, Any], bindings: list[dict[str, Any]]
) -> dict[str, Any]:
    """A sample under the signature's input names, in the file's order of axes."""
    from ai_edge_litert.interpreter import Interpreter

    names = Interpreter(str(file)).get_signature_runner().get_input_details()
    by_tensor = {detail["name"]: key for key, detail in names.items()}
    feed = {}
    for bound in bindings:
        array = sample[bound["name"]]
        array = array.transpose(bound["permutation"]) if bound["permutation"] else array
        feed[by_tensor[bound["tensor"]]] = np.ascontiguousarray(array.astype(bound["file_dtype"]))
    return feed


def dtypes(file: Path) -> dict[str, Any]:
    """The file's tensors after quantization, in order: names and dtypes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    sides = {
        "inputs": interpreter.get_input_details(),
        "outputs": interpreter.get_output_details(),
    }
    return {
        side: [{"tensor": d["name"], "file_dtype": np.dtype(d["dtype"]).name} for d in details]
        for side, details in sides.items()
    }


def operators(file: Path) -> dict[str, Any]:
    """How often each operator occurs, before any delegate takes some."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(file),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    counts: dict[str, int] = {}
    for detail in interpreter._get_ops_details():  # noqa: SLF001 - there is no public way to list them
        counts[detail["op_name"]] = counts.get(detail["op_name"], 0) + 1
    small = (np.int8, np.uint8, np.float16)
    weights = [
        d for d in interpreter.get_tensor_details() if d["dtype"] in small and len(d["shape"]) > 1
    ]
    return {"operators": dict(sorted(counts.items())), "quantized_weights": len(weights)}


OPERATIONS = {"probe": probe, "convert": convert, "quantize": quantize}
