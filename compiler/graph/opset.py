"""Operator sets: which a model names, whether its operators are in them, and the way to a modern one.

Rules:
- An operator is looked up in the set that the model names; one that came later, left earlier, or never
  was is named with what would help.
- Operators of domains that no runtime here implements are refused by name.
- An upgrade counts only when the result passes ONNX's own check; else the model stays as it came, and a
  note says why.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import Final

import onnx
import onnx.checker
import onnx.version_converter
from onnx import ModelProto, defs

from compiler.errors import ModelError
from compiler.graph import walk
from compiler.graph.functions import key_of

UPGRADE_BELOW: Final = 13
"""Per-channel QuantizeLinear came with opset 13."""

UPGRADE_TO: Final = (17, 15, 13)
"""The first that the converter reaches."""

_MODERN_IR: Final = 8
_DOMAINS: Final = ("", "ai.onnx.ml", "com.microsoft")
_SPOKEN: Final = ("", "ai.onnx.ml")
"""Domains whose operators are known here by name and version."""


def check(where: str, model: ModelProto) -> int:
    """The version of the default operator set; 0 for a model that uses none of it.

    Raises:
        ModelError: no such set although it is used, one named twice, or a version that does not exist.
    """
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{where}: expected an IR version of at most {onnx.IR_VERSION}, found {model.ir_version}; "
            "export the model for an older ONNX"
        )
    found: dict[str, int] = {}
    for imported in model.opset_import:
        domain = _spelled(imported.domain)
        if found.setdefault(domain, imported.version) != imported.version:
            raise ModelError(
                f"{where}: expected one version of the operator set {domain or 'ai.onnx'!r}, found "
                f"{found[domain]} and {imported.version}"
            )
    if "" not in found:
        return 0
    newest = defs.onnx_opset_version()
    if not 1 <= found[""] <= newest:
        raise ModelError(
            f"{where}: expected an opset of 1 to {newest}, found {found['']}; export the model for "
            f"opset {UPGRADE_TO[0]}"
        )
    return found[""]


def operators(where: str, model: ModelProto) -> dict[str, int]:
    """How often each operator occurs.

    Raises:
        ModelError: a custom operator, or one that its operator set does not have.
    """
    local = {key_of(function.domain, function.name) for function in model.functions}
    versions = {_spelled(one.domain): one.version for one in model.opset_import}
    found: dict[str, int] = {}
    for node in walk.nodes(model):
        domain = _spelled(node.domain)
        if (domain, node.op_type) in local:
            continue
        if domain not in _DOMAINS:
            raise ModelError(
                f"{where}: {walk.label(node)}: expected standard ONNX operators, found the custom operator "
                f"{node.op_type!r} of domain {node.domain!r}; export the model without it"
            )
        if domain not in versions and not model.functions:
            raise ModelError(
                f"{where}: {walk.label(node)}: expected the operator set {domain or 'ai.onnx'!r} among the "
                f"model's, found {sorted(versions)}; export it again"
            )
        if domain in _SPOKEN and domain in versions:
            problem = _unknown(node.op_type, domain, versions[domain])
            if problem:
                raise ModelError(f"{where}: {walk.label(node)}: {problem}")
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return dict(sorted(found.items()))


def upgraded(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """The model in a form that today's tools take, and what was done; native code, which may crash."""
    versions = [int(o.version) for o in model.opset_import if not _spelled(o.domain)]
    version = versions[0] if versions else UPGRADE_BELOW
    if version >= UPGRADE_BELOW and model.ir_version >= _MODERN_IR:
        return model, []
    problem = ""
    for target in UPGRADE_TO if version < UPGRADE_BELOW else (version,):
        modern = ModelProto()
        modern.CopyFrom(model)
        try:
            if target != version:
                modern = onnx.version_converter.convert_version(modern, target)
            _modernise(modern)
            onnx.checker.check_model(modern)
        except Exception as error:  # noqa: BLE001 - native code; whatever it says, the model stays as it is
            lines = str(error).strip().splitlines()
            problem = problem or (lines[0][:300] if lines else type(error).__name__)
            continue
        if _signature(modern) != _signature(model):
            problem = problem or "the converter changed its inputs or outputs"
            continue
        return modern, [f"opset {version} upgraded to {target}"] if target != version else []
    return model, [f"opset {version} could not be upgraded: {problem}"]


def _modernise(model: ModelProto) -> None:
    """Constants are no inputs: before IR version 4 each had to be listed as one, which tools trip over."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info for info in model.graph.input if info.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, _MODERN_IR)


def _signature(model: ModelProto) -> tuple[list[str], list[str]]:
    """Names of what is fed and of what comes out."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [info.name for info in model.graph.input if info.name not in constants]
    return inputs, [info.name for info in model.graph.output]


def _unknown(name: str, domain: str, version: int) -> str:
    """What is wrong with an operator's name; empty when its set has it."""
    if defs.has(name, version, domain):
        schema = defs.get_schema(name, version, domain)
        if schema.deprecated:
            return (
                f"expected an operator of opset {version}, found {name!r}, which was removed with opset "
                f"{schema.since_version}; export the model again"
            )
        return ""
    first = min((s.since_version for s in _schemas(domain).get(name, ())), default=0)
    if first > version:
        return (
            f"expected an operator of opset {version}, found {name!r}, which came with opset {first}; "
            f"export the model for opset {first}"
        )
    near = difflib.get_close_matches(name, _schemas(domain), 1)
    hint = f"; did you mean {near[0]!r}?" if near else "; export the model without it"
    return f"expected an operator of opset {version}, found {name!r}, which no opset has{hint}"


@cache
def _schemas(domain: str) -> dict[str, list[defs.OpSchema]]:
    found: dict[str, list[defs.OpSchema]] = {}
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == domain:
            found.setdefault(schema.name, []).append(schema)
    return found


def _spelled(domain: str) -> str:
    """The default domain has two spellings."""
    return "" if domain == "ai.onnx" else domain
