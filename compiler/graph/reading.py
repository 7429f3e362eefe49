"""``python -m compiler.graph.reading PATH SHOWN [--keep]``: the child in which a model is read.

In the current folder it leaves ``found.json`` with ``model.onnx`` (where external data were inlined) and
``upgraded.onnx`` (where it differs), or ``problem.json`` with what is wrong. While native code upgrades the
model, ``upgrading`` stands there, so that the parent knows what a crash was about.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx.checker
from google.protobuf.message import DecodeError
from onnx import ModelProto

from compiler.errors import ModelError
from compiler.graph import control_flow, external, functions, interface, opset, order, tensors, walk
from compiler.graph.onnx_model import (
    FOUND,
    MODEL,
    PROBLEM,
    UPGRADED,
    UPGRADING,
    Found,
    OnnxModel,
    read_file,
)


def read(
    path: Path,
    *,
    shown: str = "",
    upgrade: bool = True,
    before_upgrade: Callable[[], object] = lambda: None,
) -> OnnxModel:
    """Read and check a model in this very process; a native crash ends it.

    Args:
        path: the file.
        shown: how messages name it; as `path` when empty.
        upgrade: whether to upgrade an old opset.
        before_upgrade: called before native code upgrades the model.

    Raises:
        ModelError: damaged, hostile, or of a kind that no backend can take.
    """
    where = shown or str(path)
    raw = read_file(path)
    model = _parse(where, raw)
    version = opset.check(where, model)
    functions.check(where, model)
    operators = opset.operators(where, model)
    tensors.check_shapes(where, model)
    digest = hashlib.sha256(raw)
    inlined = external.inline(where, path.parent, model)
    for data in inlined:
        digest.update(data)
    tensors.check_contents(where, model)
    order.check(where, model)
    inputs, outputs = interface.specs(where, model.graph)
    _check(where, model)
    before_upgrade()
    upgraded, notes = opset.upgraded(model) if upgrade else (model, [])
    data = model.SerializeToString(deterministic=True) if inlined else raw
    return OnnxModel(
        data=data,
        upgraded=data if upgraded is model else upgraded.SerializeToString(deterministic=True),
        sha256=digest.hexdigest(),
        opset=version,
        inputs=inputs,
        outputs=outputs,
        operators=operators,
        notes=[*notes, *control_flow.notes(operators)],
    )


def _parse(where: str, data: bytes) -> ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError):
        raise ModelError(
            f"{where}: expected an ONNX model, found bytes that do not parse (damaged, truncated, or "
            "nested too deeply); export it again"
        ) from None
    if not model.graph.node or not model.opset_import:
        raise ModelError(
            f"{where}: expected an ONNX model with a graph, found none; export it again"
        )
    for text in walk.texts(model):
        if not isinstance(text, str):  # protobuf hands over bytes where a text is not UTF-8
            raise ModelError(
                f"{where}: expected names in UTF-8, found {text!r}; the file is damaged, export it again"
            )
    return model


def _check(where: str, model: ModelProto) -> None:
    """What ONNX itself asks of a model."""
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        context = next((line.split("Context:", 1)[1] for line in lines if "Context:" in line), "")
        problem = f"{lines[0][:300]}{f' ({context.strip()[:200]})' if context else ''}"
        raise ModelError(
            f"{where}: expected a valid ONNX model, found: {problem}; export it again"
        ) from None


def main() -> int:
    """The child."""
    arguments = sys.argv[1:]
    try:
        model = read(
            Path(arguments[0]),
            shown=arguments[1],
            upgrade="--keep" not in arguments[2:],
            before_upgrade=Path(UPGRADING).touch,
        )
    except ModelError as error:
        Path(PROBLEM).write_bytes(msgspec.json.encode(str(error)))
        return 0
    if model.data != Path(arguments[0]).read_bytes():
        Path(MODEL).write_bytes(model.data)
    if model.upgraded != model.data:
        Path(UPGRADED).write_bytes(model.upgraded)
    Path(UPGRADING).unlink(missing_ok=True)
    found = Found(
        sha256=model.sha256,
        opset=model.opset,
        inputs=model.inputs,
        outputs=model.outputs,
        operators=model.operators,
        notes=model.notes,
    )
    Path(FOUND).write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
