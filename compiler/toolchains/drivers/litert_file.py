"""A LiteRT file as the driver sees it: its operators, its tensors, and runs of it.

Laid beside the driver ``litert``. Rules:
- A layer is an operator by its scope: the names of its output tensors, each with a semicolon behind, as
  ai-edge-quantizer writes it. Names come from the converter and are the same in every build.
- What is measured runs on one thread, so that it says the same twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

MOVES: Final = frozenset({
    "RESHAPE", "TRANSPOSE", "PACK", "UNPACK", "SPLIT", "SLICE", "STRIDED_SLICE", "GATHER", "GATHER_ND",
    "PAD", "PADV2", "MIRROR_PAD", "BROADCAST_TO", "CONCATENATION", "SPACE_TO_DEPTH", "MAX_POOL_2D",
    "RESIZE_NEAREST_NEIGHBOR", "DYNAMIC_UPDATE_SLICE",
})  # fmt: skip
"""Operators that move values and compute none: they are as exact as what is around them."""

Samples = list[dict[str, Any]]
Bindings = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of the main graph.

    Attributes:
        inputs, outputs: names of its tensors; of the inputs those that are no constants.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class LiteRtFile:
    """A file's structure, read from its flatbuffer."""

    def __init__(self, content: bytes) -> None:
        """Of a file's bytes."""
        from ai_edge_quantizer.utils import tfl_flatbuffer_utils

        self.content = content
        self.model = tfl_flatbuffer_utils.read_model(content)
        self.graph = self.model.subgraphs[0]

    @cached_property
    def operators(self) -> list[Operator]:
        """Operators in the order that they run in."""
        return [
            Operator(
                name=scope(self.names(operator.outputs)),
                op=self.kind(operator),
                inputs=tuple(n for n in self.names(operator.inputs) if n not in self.constants),
                outputs=tuple(self.names(operator.outputs)),
            )
            for operator in self.graph.operators
        ]

    @cached_property
    def constants(self) -> dict[str, Any]:
        """Tensors that have their values in the file: the flatbuffer's tensor by name."""
        buffers = self.model.buffers
        return {text(t.name): t for t in self.graph.tensors if buffers[t.buffer].data is not None}

    def values(self, name: str) -> Any:
        """The values of a constant in float32; None when it is none."""
        from ai_edge_litert import schema_py_generated as schema

        tensor = self.constants.get(name)
        if tensor is None or tensor.type != schema.TensorType.FLOAT32:
            return None
        data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8).tobytes()
        shape = [] if tensor.shape is None else list(tensor.shape)
        return np.frombuffer(data, np.float32).reshape(shape)

    @cached_property
    def floats(self) -> list[str]:
        """Names of the float32 tensors that are computed."""
        from ai_edge_litert import schema_py_generated as schema

        return [
            text(tensor.name)
            for tensor in self.graph.tensors
            if tensor.type == schema.TensorType.FLOAT32 and text(tensor.name) not in self.constants
        ]

    @property
    def inputs(self) -> list[str]:
        """Names of the graph's inputs."""
        return self.names(self.graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """Names of the graph's outputs."""
        return self.names(self.graph.outputs)

    @cached_property
    def custom(self) -> list[str]:
        """Operators that no runtime has by itself."""
        from ai_edge_litert import schema_py_generated as schema

        return sorted(
            text(code.customCode)
            for code in self.model.operatorCodes
            if code.builtinCode == schema.BuiltinOperator.CUSTOM
        )

    @cached_property
    def unscaled(self) -> list[str]:
        """Types of computed tensors that hold small integers without a scale."""
        from ai_edge_litert import schema_py_generated as schema

        types = schema.TensorType
        small = {
            types.INT4: "int4", types.INT8: "int8", types.UINT8: "uint8",
            types.INT16: "int16", types.UINT16: "uint16",
        }  # fmt: skip
        return sorted(
            {
                small[tensor.type]
                for tensor in self.graph.tensors
                if tensor.type in small
                and (tensor.quantization is None or tensor.quantization.scale is None)
            }
        )

    def layers(self) -> list[dict[str, str]]:
        """Operators that compute and that the static recipes quantize, as the answer lists them."""
        from ai_edge_quantizer import qtyping
        from ai_edge_quantizer.default_policy import DEFAULT_CONFIG_CHECK_POLICY as POLICY

        quantizable = {
            key.value
            for key, configurations in POLICY.items()
            if any(c.activation_tensor_config is not None for c in configurations)
            and key not in {qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT}
        }
        floats = set(self.floats)
        return [
            {"name": one.name, "op": one.op}
            for one in self.operators
            if one.op in quantizable and one.op not in MOVES and floats.issuperset(one.outputs)
        ]

    def names(self, indices: Iterable[int]) -> list[str]:
        """Names of tensors; a missing optional one has none."""
        return [text(self.graph.tensors[index].name) for index in indices if index != -1]

    def kind(self, operator: Any) -> str:
        """An operator's name in the schema."""
        from ai_edge_litert import schema_py_generated as schema

        code = self.model.operatorCodes[operator.opcodeIndex]
        if code.builtinCode == schema.BuiltinOperator.CUSTOM:
            return text(code.customCode)
        return _builtin_names()[code.builtinCode]


def _builtin_names() -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {
        code: name
        for name, code in vars(schema.BuiltinOperator).items()
        if isinstance(code, int) and not name.startswith("_")
    }


def scope(outputs: Iterable[str]) -> str:
    """An operator's scope from the names of its outputs."""
    return "".join(f"{name};" for name in outputs)


def text(name: bytes | str) -> str:
    """A name of a flatbuffer."""
    return name.decode() if isinstance(name, bytes) else name


# --- runs -------------------------------------------------------------------------------------------


class Runs:
    """An interpreter that takes samples in the model's terms."""

    def __init__(
        self, content: bytes, inputs: Bindings, *, reference: bool = False, keep: bool = False
    ) -> None:
        """Allocate a file.

        Args:
            content: the file.
            inputs: bindings of the model's inputs.
            reference: on reference kernels instead of those that devices use.
            keep: keep the values of all tensors between operators.
        """
        self.interpreter = interpreter(content, reference=reference, keep=keep)
        self.bindings = list(inputs)
        details = self.interpreter.get_input_details()
        named = {detail["name"]: detail for detail in details}
        self.details = [
            named.get(one["tensor"], positional)
            for one, positional in zip(self.bindings, details, strict=True)
        ]

    def invoke(self, sample: dict[str, Any]) -> None:
        """Run one sample."""
        for bound, detail in zip(self.bindings, self.details, strict=True):
            array = np.asarray(sample[bound["name"]])
            array = array.transpose(bound["permutation"]) if bound["permutation"] else array
            array = np.ascontiguousarray(quantized(array, detail))
            if array.shape != tuple(detail["shape"]):
                raise ValueError(
                    f"input {bound['name']}: expected samples of one shape {list(detail['shape'])} "
                    f"(in the file's order of axes), found {list(array.shape)}"
                )
            self.interpreter.set_tensor(detail["index"], array)
        self.interpreter.invoke()

    def outputs(self, sample: dict[str, Any]) -> list[Any]:
        """The file's answers in float32 where they are quantized, in the file's order and layout."""
        self.invoke(sample)
        return [self.value(detail) for detail in self.interpreter.get_output_details()]

    def value(self, detail: dict[str, Any]) -> Any:
        """A tensor's value, out of its integers."""
        return dequantized(self.interpreter.get_tensor(detail["index"]), detail)

    def tensors(self, sample: dict[str, Any], names: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Run one sample, then the named tensors one by one; needs `keep`."""
        self.invoke(sample)
        for name in names:
            detail = self._by_name[name]
            try:
                yield name, self.value(detail)
            except ValueError:  # fused away by the delegate: it has no value of its own
                continue

    @cached_property
    def _by_name(self) -> dict[str, dict[str, Any]]:
        return {detail["name"]: detail for detail in self.interpreter.get_tensor_details()}


def interpreter(content: bytes, *, reference: bool = False, keep: bool = False) -> Any:
    """An interpreter with its tensors allocated."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
    found = Interpreter(
        model_content=content,
        num_threads=1,
        experimental_op_resolver_type=kernels,
        experimental_preserve_all_tensors=keep,
    )
    found.allocate_tensors()
    return found


def quantized(array: Any, detail: dict[str, Any]) -> Any:
    """An array in a tensor's dtype, scaled where that is quantized."""
    scale, zero = detail["quantization"]
    if scale and np.issubdtype(detail["dtype"], np.integer):
        bounds = np.iinfo(detail["dtype"])
        array = np.clip(np.rint(array.astype(np.float64) / scale) + zero, bounds.min, bounds.max)
    return array.astype(detail["dtype"])


def dequantized(array: Any, detail: dict[str, Any]) -> Any:
    """The real values of a tensor."""
    scale, zero = detail["quantization"]
    if scale and np.issubdtype(array.dtype, np.integer):
        return ((array.astype(np.float32) - np.float32(zero)) * np.float32(scale)).astype(
            np.float32
        )
    return array


# --- what the answers say of a file -----------------------------------------------------------------


def ends(content: bytes) -> dict[str, Any]:
    """The file's inputs and outputs in order: names and dtypes."""
    found = interpreter(content)
    sides = {"inputs": found.get_input_details(), "outputs": found.get_output_details()}
    return {
        side: [{"tensor": d["name"], "file_dtype": np.dtype(d["dtype"]).name} for d in details]
        for side, details in sides.items()
    }


def census(content: bytes) -> dict[str, Any]:
    """How often each operator occurs, before any delegate takes some, and how many weights are small."""
    from ai_edge_litert import schema_py_generated as schema

    file = LiteRtFile(content)
    counts: dict[str, int] = {}
    for graph in file.model.subgraphs:
        for operator in graph.operators:
            kind = file.kind(operator)
            counts[kind] = counts.get(kind, 0) + 1
    small = {schema.TensorType.INT8, schema.TensorType.UINT8, schema.TensorType.FLOAT16}
    weights = [t for t in file.constants.values() if t.type in small and len(t.shape) > 1]
    return {"operators": dict(sorted(counts.items())), "quantized_weights": len(weights)}


def read_samples(path: Path) -> Samples:
    """Feeds from an npz whose arrays are named ``INDEX:NAME``."""
    found: dict[int, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            index, _, name = key.partition(":")
            found.setdefault(int(index), {})[name] = archive[key]
    return [found[index] for index in sorted(found)]
