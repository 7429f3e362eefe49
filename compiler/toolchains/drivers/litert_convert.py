"""ONNX to a float LiteRT file that answers as ONNX Runtime does.

Laid beside the driver ``litert``. Rules:
- The converter's exit status is not believed: a file counts when the interpreter takes it, when it has no
  custom operator, and when it answers like ONNX Runtime on samples and on random probes.
- Whatever cannot be converted is refused with the operator's name, or with all of a small model's.
- Built twice, a file has the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from litert_file import LiteRtFile
from litert_fit import ConversionError, Fit, Reference, fit, said
from litert_layout import Feed

_FEW: Final = 4
"""Operators that a refusal lists when it cannot name one."""


def convert(
    source: Any, samples: list[Feed], shapes: dict[str, list[int]], work: Path
) -> tuple[bytes, Fit]:
    """A float LiteRT file of a model, and how it is bound.

    Args:
        source: an `onnx.ModelProto`.
        samples: feeds of one shape each; the converter itself sees none of them.
        shapes: what each input is fixed to.
        work: a folder for the converter.

    Raises:
        ConversionError: no file answers as the model does.
    """
    declared = declared_shapes(source)
    model = fix_shapes(source, shapes)
    reference = Reference(model, samples, declared)
    set_output_shapes(model, reference.answers)
    model = simplify(narrowed(model))
    problems = []
    for attempt, keep in enumerate(attempts(model)):
        try:
            content = run_converter(model, work / f"attempt{attempt}", keep)
            return content, fit(content, reference, keep)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the next attempt may do better
            problems.append(said(error))
    raise ConversionError(f"{blamed(model, problems)}: {problems[-1]}")


def fix_shapes(model: Any, shapes: dict[str, list[int]]) -> Any:
    """The model with every input of a fixed shape; stale shapes elsewhere are dropped.

    Raises:
        ConversionError: the samples have other ranks than the model says.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if len(dims) != len(shapes[info.name]):
            raise ConversionError(
                f"input {info.name}: expected samples of {len(dims)} axes, found {shapes[info.name]}"
            )
        for dim, size in zip(dims, shapes[info.name], strict=True):
            dim.Clear()
            dim.dim_value = size
    del model.graph.value_info[:]
    for info in model.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    return model


def declared_shapes(model: Any) -> dict[str, list[int]]:
    """Shapes of the outputs that the model says in numbers."""
    found = {}
    for info in model.graph.output:
        if info.type.tensor_type.HasField("shape"):
            dims = info.type.tensor_type.shape.dim
            if all(dim.HasField("dim_value") for dim in dims):
                found[info.name] = [dim.dim_value for dim in dims]
    return found


def set_output_shapes(model: Any, answers: Sequence[dict[str, Any]]) -> None:
    """Write down the shapes that the outputs turn out to have.

    Raises:
        ConversionError: one holds no values, or depends on the inputs' values: a file would have to guess it.
    """
    for info in model.graph.output:
        seen = {answer[info.name].shape for answer in answers}
        if len(seen) > 1:
            raise ConversionError(
                f"output {info.name}: expected one shape for inputs of one shape, found {sorted(seen)}"
            )
        shape = seen.pop()
        if 0 in shape:
            raise ConversionError(
                f"output {info.name}: expected values, found the empty shape {list(shape)}"
            )
        dims = info.type.tensor_type.shape.dim
        del dims[:]
        for size in shape:
            dims.add().dim_value = size


def narrowed(model: Any) -> Any:
    """The model with float32 where it has float64, which few kernels take; parity judges what that costs."""
    from onnx import AttributeProto, TensorProto, numpy_helper

    double, single = TensorProto.DOUBLE, TensorProto.FLOAT

    def narrow(tensor: Any) -> None:
        if tensor.data_type == double:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    for tensor in model.graph.initializer:
        narrow(tensor)
    for info in (*model.graph.input, *model.graph.output):
        if info.type.tensor_type.elem_type == double:
            info.type.tensor_type.elem_type = single
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                narrow(attribute.t)
            elif attribute.name in {"to", "dtype"} and attribute.i == double:
                attribute.i = single
    return model


def simplify(model: Any) -> Any:
    """The model with constants folded, where that works, and with the shapes that the converter needs."""
    import onnx
    import onnxsim

    try:
        simplified, valid = onnxsim.simplify(model)
    except Exception:  # noqa: BLE001 - the simplifier is a help, not a need
        simplified, valid = model, False
    names = ([i.name for i in model.graph.input], [o.name for o in model.graph.output])
    same = names == (
        [i.name for i in simplified.graph.input],
        [o.name for o in simplified.graph.output],
    )
    # The converter falls back to shapes computed at run time where a tensor's shape is not written down.
    found: Any = onnx.shape_inference.infer_shapes(simplified if valid and same else model)
    return found


def rank(info: Any) -> int:
    """Number of axes of an input."""
    return len(info.type.tensor_type.shape.dim)


def attempts(model: Any) -> Iterator[list[str]]:
    """Inputs that the converter is told to leave alone, the faster files first."""
    deep = [info.name for info in model.graph.input if rank(info) in {3, 4, 5}]
    convolved = {"Conv", "ConvTranspose", "MaxPool"}
    users = {name: {n.op_type for n in model.graph.node if name in n.input} for name in deep}
    # What the model itself turns from channels-last needs no turning.
    turned = [name for name in deep if not users[name] & convolved]
    seen: list[list[str]] = []
    for keep in (turned, deep, []):
        if keep not in seen:
            seen.append(keep)
            yield keep


def run_converter(model: Any, folder: Path, keep: list[str]) -> bytes:
    """Call onnx2tf on a copy (it writes into its input).

    Raises:
        ConversionError: it made no file, or one that needs what no runtime has.
    """
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
    file = folder / "tflite" / "model_float32.tflite"
    if not file.is_file():
        raise ConversionError("onnx2tf wrote no float32 file")
    content = file.read_bytes()
    shutil.rmtree(folder)
    custom = LiteRtFile(content).custom
    if custom:
        raise ConversionError(
            f"onnx2tf made custom operators of it that no runtime has: {', '.join(custom)}"
        )
    return content


def blamed(model: Any, problems: Sequence[str]) -> str:
    """The operators that a refusal is about: those that the problems name, else all of a small model's."""
    kinds = sorted({node.op_type for node in model.graph.node})
    named = [kind for kind in kinds if any(kind in problem for problem in problems)]
    listed = named or kinds
    if not listed:
        return "the model has no operator left after folding"
    if len(listed) > _FEW:
        return f"one of {len(listed)} kinds of operators ({', '.join(listed[:_FEW])}, ...) is not converted"
    return f"operator {', '.join(listed)} is not converted"
