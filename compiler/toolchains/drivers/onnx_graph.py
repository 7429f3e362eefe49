"""The ONNX graph as the quantizing driver sees it: prepared, with named layers, and with values that can be read.

Laid beside the driver ``onnx_qdq``. Rules:
- A layer is a node that quantization starts at. Nodes that only move values about, and the Relu or Clip behind
  a layer, follow the layer before them, and are no layers themselves.
- Models run with one thread and, where answers are compared, without optimizations: the same on every host.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx

FOLLOWERS: Final = frozenset(
    {
        "Clip",
        "Flatten",
        "Gather",
        "GatherElements",
        "MaxPool",
        "Pad",
        "Relu",
        "Reshape",
        "Resize",
        "Slice",
        "Split",
        "Squeeze",
        "TopK",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""What the quantizer quantizes only behind something that is quantized already, or folds into it."""

_MOST_BYTES: Final = 96 << 20
_UNKNOWN_BYTES: Final = 8 << 20
_SUFFIX: Final = "_DequantizeLinear_Output"


def prepare(path: Path, folder: Path) -> onnx.ModelProto:
    """A model with constants folded, shapes inferred, and every node named; the same bytes each time.

    Args:
        path: of the model as it came.
        folder: for what is made on the way.
    """
    from onnxruntime.quantization.quant_utils import add_infer_metadata
    from onnxruntime.quantization.shape_inference import quant_pre_process

    target = folder / "preprocessed.onnx"
    quant_pre_process(str(path), str(target), skip_symbolic_shape=True)
    model = onnx.load(str(target))
    target.unlink()
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    flatten_biases(model)
    name_nodes(model)
    add_infer_metadata(model)  # so that the quantizer does not infer the shapes again each time
    return model


def flatten_biases(model: onnx.ModelProto) -> None:
    """Gemm's biases of shape [1, N] become [N]: the same by broadcasting, and the quantizer raises on the first."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    for node in model.graph.node:
        bias = (
            tensors.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        )
        if bias is not None and len(bias.dims) == 2 and bias.dims[0] == 1 and uses[bias.name] == 1:
            del bias.dims[0]


def name_nodes(model: onnx.ModelProto) -> None:
    """Each node gets a name that no other has; the names that are there stay where they are the first."""
    taken: set[str] = {node.name for node in model.graph.node if node.name}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base = node.name or f"{node.op_type}_{index}"
        name, count = base, 1
        while name in taken or name in seen:
            name, count = f"{base}_{count}", count + 1
        node.name = name
        seen.add(name)


def layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that can be quantized on their own, in the graph's order."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    known = set(QDQRegistry) | set(QLinearOpsRegistry)
    floats = float_tensors(model)
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type in known
        and (node.op_type not in FOLLOWERS or _embeds(node, constants))
        and all(name in floats for name in node.output if name)
    ]


def _embeds(node: onnx.NodeProto, constants: set[str]) -> bool:
    """Whether it looks rows of a constant table up: it is a layer although other Gathers only follow."""
    return node.op_type == "Gather" and node.input[0] in constants


def followers(
    model: onnx.ModelProto, chosen: Iterable[str], without: Container[str] = ()
) -> list[str]:
    """Names of the nodes that only move or clip what one of the chosen nodes gives, at any distance.

    Args:
        model: the graph.
        chosen: names of nodes.
        without: names of nodes that follow nothing.
    """
    reached = set()
    names = set(chosen)
    found = []
    for node in model.graph.node:
        follows = node.op_type in FOLLOWERS and node.name not in without
        if node.name in names or (follows and any(name in reached for name in node.input)):
            reached.update(node.output)
            if node.name not in names:
                found.append(node.name)
    return found


def float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all tensors in float32: inputs, outputs, constants, and what is between."""
    graph = model.graph
    infos = [*graph.input, *graph.output, *graph.value_info]
    found = {one.name for one in infos if one.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return found | {
        one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT
    }


def activations(model: onnx.ModelProto) -> list[str]:
    """Float tensors that go into or come out of a node which could be quantized, in the graph's order."""
    names = {node.name for node in layers(model)}
    wanted = names | set(followers(model, names))
    constants = {tensor.name for tensor in model.graph.initializer}
    floats = float_tensors(model) - constants
    found = dict.fromkeys(
        name
        for node in model.graph.node
        if node.name in wanted
        for name in (*node.input, *node.output)
        if name in floats
    )
    return list(found)


def operators(model: onnx.ModelProto) -> dict[str, int]:
    """How many nodes of each type there are."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items()))


def session(model: onnx.ModelProto, *, optimized: bool = False) -> Any:
    """An ONNX Runtime session on one thread of the CPU."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Feeds from an npz whose arrays are named ``INDEX:NAME``."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            index, _, name = key.partition(":")
            found.setdefault(int(index), {})[name] = archive[key]
    return [found[index] for index in sorted(found)]


def walk(
    model: onnx.ModelProto,
    parts: Sequence[Sequence[str]],
    feeds: Sequence[dict[str, Any]],
    *,
    optimized: bool,
) -> Iterator[tuple[str, Any]]:
    """Values of a model's tensors: for each part, for each feed, for each tensor of the part.

    Each part is run for itself, as the runtime holds on to whatever is an output until a run ends.
    """
    inputs = {info.name for info in model.graph.input}
    for part in parts:
        probed = onnx.ModelProto()
        probed.CopyFrom(model)
        computed = [name for name in part if name not in inputs]
        del probed.graph.output[:]
        probed.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, computed))
        running = session(probed, optimized=optimized) if computed else None
        for feed in feeds:
            found = dict(zip(computed, running.run(computed, feed), strict=True)) if running else {}
            for name in part:
                yield name, found[name] if name in found else feed[name]


def in_parts(
    model: onnx.ModelProto, tensors: Iterable[str], feed: dict[str, Any]
) -> list[list[str]]:
    """Tensors in parts whose values take a bounded number of bytes when the inputs are as in the feed."""
    return groups(tensors, sizes(model, feed))


def sizes(model: onnx.ModelProto, feed: dict[str, Any]) -> dict[str, int]:
    """Bytes that float tensors take when the inputs have the feed's shapes; unknown ones are left out."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for info in fixed.graph.input:
        dims = info.type.tensor_type.shape.dim
        for dim, size in zip(dims, feed[info.name].shape, strict=False):
            dim.dim_value = size
    del fixed.graph.value_info[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    except Exception:  # noqa: BLE001 - only an estimate is lost
        inferred = model
    found = {}
    for info in (*inferred.graph.value_info, *inferred.graph.output):
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.type.tensor_type.HasField("shape") and all(dims):
            found[info.name] = 4 * int(np.prod(dims, dtype=np.int64))
    return found


def groups(
    tensors: Iterable[str], size: dict[str, int], most: int = _MOST_BYTES
) -> list[list[str]]:
    """Tensors in order, in groups that take at most so many bytes, or hold one."""
    found: list[list[str]] = []
    room = 0
    for name in tensors:
        takes = size.get(name, _UNKNOWN_BYTES)
        if not found or takes > room:
            found.append([])
            room = most
        found[-1].append(name)
        room -= takes
    return found


def standing_for(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors of the float model that this model still has, and the tensor of this model that has their values."""
    made = {name for node in model.graph.node for name in node.output if name}
    found = {name: name for name in made if not name.endswith(_SUFFIX)}
    for name in made:
        if name.endswith(_SUFFIX):
            found[name.removesuffix(_SUFFIX)] = name
    return found
