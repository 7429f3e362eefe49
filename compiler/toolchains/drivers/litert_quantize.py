"""Quantization of a float LiteRT file by ai-edge-quantizer, one operator's trouble at a time.

Laid beside the driver ``litert``. Rules:
- Ranges of activations are ours (see ``ranges``), handed over as the statistics that its own calibration makes.
- An operator that the quantizer raises on, or whose quantized form the interpreter refuses, stays float, and
  the answer says why; the model goes on.
- Kept layers are in the refuge, and so are the operators between two of them that only move values, and the
  ends of the model that they touch: precision that was paid for is not lost on the way.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from litert_file import MOVES, LiteRtFile, interpreter, scope, text

Ranges = Mapping[str, tuple[float, float]]

INPUT: Final = "INPUT"
OUTPUT: Final = "OUTPUT"
_MOST_FALLS: Final = 40
_NOTHING: Final = (-1.0, 1.0)
"""Range of an activation that is always zero: there is nothing to scale, and a scale must not be zero."""


class QuantizationError(RuntimeError):
    """A model that cannot be quantized at all."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A recipe as the driver is told it.

    Attributes:
        mode: static, dynamic, weight_only or fp16.
        operators: the only ones that are quantized; all when empty.
        float_operators: kinds that stay float.
        kept: scopes of layers that stay in the refuge.
        refuge: ``float``, or ``int16`` for 16-bit activations.
    """

    mode: str
    activation_bits: int = 8
    weight_bits: int = 8
    algorithm: str = "MIN_MAX_UNIFORM_QUANT"
    operators: tuple[str, ...] = ()
    float_operators: tuple[str, ...] = ()
    kept: frozenset[str] = frozenset()
    refuge: str = "float"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """From a job's options."""
        return cls(
            mode=options["mode"],
            activation_bits=options.get("activation_bits", 8),
            weight_bits=options.get("weight_bits", 8),
            algorithm=options.get("algorithm", "MIN_MAX_UNIFORM_QUANT"),
            operators=tuple(options.get("operators", ())),
            float_operators=tuple(options.get("float_operators", ())),
            kept=frozenset(options.get("kept", ())),
            refuge=options.get("refuge") or "float",
        )


@dataclass
class Quantized:
    """A file and what became of its operators.

    Attributes:
        fallen: reasons of operators that stayed float although the recipe would have them.
    """

    content: bytes = b""
    layers: list[str] = field(default_factory=list)
    fallen: dict[str, str] = field(default_factory=dict)


def quantize(file: LiteRtFile, settings: Settings, ranges: Ranges | None = None) -> Quantized:
    """A quantized file.

    Raises:
        QuantizationError: the quantizer or the interpreter refuses it, and does not say for which operator.
    """
    found = Quantized()
    for _ in range(_MOST_FALLS):
        try:
            _attempt(file, settings, ranges, found)
        except Exception as error:  # noqa: BLE001 - the quantizer raises whatever it likes
            culprits = _culprits(file, error, found)
            if not culprits:
                raise QuantizationError(f"ai-edge-quantizer: {said(error)}") from None
            found.fallen |= dict.fromkeys(culprits, said(error))
            continue
        found.layers = [one for one in found.layers if one not in found.fallen]
        return found
    raise QuantizationError(
        f"expected at most {_MOST_FALLS} operators that cannot be quantized, found more; the last: "
        f"{list(found.fallen.items())[-1]}"
    )


def _attempt(file: LiteRtFile, settings: Settings, ranges: Ranges | None, found: Quantized) -> None:
    from ai_edge_quantizer import quantizer

    rules = recipe(file, settings, frozenset(found.fallen))
    quantization = quantizer.Quantizer(file.content)
    quantization.load_quantization_recipe(rules)
    taken: list[str] = []
    with noting(taken, found.fallen):
        result = quantization.quantize(
            statistics(file, ranges) if ranges is not None else None,
            enable_progress_bar=False,
            enable_progress_report=False,
        )
    found.content = bytes(result.quantized_model)
    known = {layer["name"] for layer in file.layers()}
    found.layers = [name for name in taken if name in known]
    _check(found.content)


def _check(content: bytes) -> None:
    """Run the file once on zeros: the interpreter refuses combinations of types when it gets to them."""
    runs = interpreter(content)
    for detail in runs.get_input_details():
        runs.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    runs.invoke()


def statistics(file: LiteRtFile, ranges: Ranges) -> dict[str, dict[str, Any]]:
    """Ranges in the form of the quantizer's own calibration: one value per tensor, in the tensor's rank."""
    found = {}
    for tensor in file.graph.tensors:
        name = text(tensor.name)
        if name not in ranges or name in file.constants:
            continue
        lo, hi = ranges[name] if ranges[name][1] > ranges[name][0] else _NOTHING
        shape = [1] * (len(tensor.shape) if tensor.shape is not None else 0)
        found[name] = {
            "min": np.full(shape, lo, np.float32),
            "max": np.full(shape, hi, np.float32),
        }
    return found


@contextlib.contextmanager
def noting(taken: list[str], fallen: dict[str, str]) -> Iterator[None]:
    """Note which operators the quantizer takes up, and let those pass as float on which it raises.

    It has no hook for that; every operator's rule goes through one function, which is wrapped here.
    """
    from ai_edge_quantizer import algorithm_manager
    from ai_edge_quantizer.params_generator import ParamsGenerator

    original = algorithm_manager.get_quantization_func

    def wrapped(*arguments: Any, **named: Any) -> Callable[..., Any]:
        inner = original(*arguments, **named)

        def materialize(*, op_info: Any, graph_info: Any, **others: Any) -> Any:
            tensors = graph_info.subgraph_tensors
            ends = [i for i in op_info.op.outputs if i != -1] or list(op_info.op.inputs)
            name = scope(text(tensors[index].name) for index in ends)
            kind = op_info.op_name.value
            name = kind if kind in {INPUT, OUTPUT} else name
            try:
                result = inner(op_info=op_info, graph_info=graph_info, **others)
            except Exception as error:  # noqa: BLE001 - one operator's trouble
                fallen[name] = f"{kind}: {said(error)}"
                return ParamsGenerator._get_params_for_no_quant_op(  # noqa: SLF001 - what it does itself
                    None, op_info.subgraph_op_index, op_info.op, tensors
                )
            taken.append(name)
            return result

        return materialize

    algorithm_manager.get_quantization_func = wrapped
    try:
        yield
    finally:
        algorithm_manager.get_quantization_func = original


def _culprits(file: LiteRtFile, error: Exception, found: Quantized) -> list[str]:
    """Operators that an error is about: by node number in the quantized file, else by tensors it names."""
    message = str(error)
    number = re.search(r"Node number (\d+) \(", message)
    if number and found.content:
        operators = LiteRtFile(found.content).operators
        at = int(number.group(1))
        outputs = set(operators[at].outputs) if at < len(operators) else set()
        touching = [
            one.name
            for one in file.operators
            if outputs.intersection(one.outputs) and one.name not in found.fallen
        ]
        if touching:
            return touching
    named = set(re.findall(r"[^\s'\"`,]+", message))
    return [
        one.name
        for one in file.operators
        if named.intersection(one.outputs) and one.name not in found.fallen
    ]


def said(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:400]


# --- which operator gets what -----------------------------------------------------------------------


def recipe(
    file: LiteRtFile, settings: Settings, fallen: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """An ai-edge-quantizer recipe from ours."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = recipe_manager.RecipeManager()
    names = qtyping.TFLOperationName
    every, nothing = names.ALL_SUPPORTED, AlgorithmName.NO_QUANTIZE
    algorithm, minmax = AlgorithmName[settings.algorithm], AlgorithmName.MIN_MAX_UNIFORM_QUANT
    bits = settings.weight_bits

    def static(regex: str, operator: Any, activation_bits: int) -> None:
        # Only operators with weights know another algorithm; ends have none.
        chosen = minmax if operator in {names[INPUT], names[OUTPUT]} else algorithm
        manager.add_static_config(regex, operator, activation_bits, bits, algorithm_key=chosen)

    if settings.mode == "static":
        for operator in [names[name] for name in settings.operators] or [every]:
            static(".*", operator, settings.activation_bits)
    elif settings.mode == "dynamic":
        manager.add_dynamic_config(".*", every, bits, algorithm_key=algorithm)
    elif settings.mode == "weight_only":
        manager.add_weight_only_config(".*", every, bits, algorithm_key=algorithm)
    elif settings.mode == "fp16":
        manager.add_weight_only_config(".*", every, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    else:
        raise ValueError(
            f"expected the mode static, dynamic, weight_only or fp16, found {settings.mode!r}"
        )
    for name in settings.float_operators:
        manager.add_quantization_config(".*", names[name], algorithm_key=nothing)
    refuge, ends = spared(file, settings.kept)
    for name in sorted(refuge | (fallen - {INPUT, OUTPUT})):
        manager.add_quantization_config(f"^{re.escape(name)}$", every, algorithm_key=nothing)
    wide = settings.mode == "static" and settings.refuge == "int16"
    for name in sorted(refuge - fallen) if wide else []:
        static(f"^(?:{re.escape(name)})$", every, 16)
    for end in sorted({INPUT, OUTPUT} if settings.mode == "static" else ()):
        # The last word: the scope of an end can be that of an operator.
        if end in fallen or (end in ends and not wide):
            manager.add_quantization_config("^.*$", names[end], algorithm_key=nothing)
        elif not settings.operators:
            static("^.*$", names[end], 16 if end in ends else settings.activation_bits)
    found: list[dict[str, Any]] = manager.get_quantization_recipe()
    return found


def spared(file: LiteRtFile, kept: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Scopes that go to the refuge with the kept layers, and the ends of the model that do.

    An operator that only moves values goes along when it takes from the refuge and gives to it; so does an end
    of the model that a kept layer touches, directly or through such operators.
    """
    if not kept:
        return frozenset(), frozenset()
    users: dict[str, list[str]] = {}
    makers = {}
    for one in file.operators:
        for name in one.outputs:
            makers[name] = one.name
        for name in one.inputs:
            users.setdefault(name, []).append(one.name)
    operators = {one.name: one for one in file.operators}
    moves = {one.name for one in file.operators if one.op in MOVES}
    ends_at, starts_at = set(file.outputs), set(file.inputs)

    def reach(step: Callable[[Any], Sequence[str]], borders: set[str]) -> set[str]:
        """Tensors that lead to a kept layer, or to a border of the model, through moves alone."""
        found = set(borders)
        for name in kept & set(operators):
            found |= set(step(operators[name]))
        grown = True
        while grown:
            before = len(found)
            for name in moves:
                one = operators[name]
                other = one.outputs if step is _inputs else one.inputs
                if found.intersection(other):
                    found |= set(step(one))
            grown = len(found) > before
        return found

    given = reach(_outputs, set())  # tensors that carry the refuge's precision
    wanted = reach(_inputs, set())
    before_end, after_start = reach(_inputs, ends_at), reach(_outputs, starts_at)
    along = {
        name
        for name in moves
        if (given | after_start).intersection(operators[name].inputs)
        and (wanted | before_end).intersection(operators[name].outputs)
        and (
            given.intersection(operators[name].inputs)
            or wanted.intersection(operators[name].outputs)
        )
    }
    ends = set()
    if wanted & starts_at:
        ends.add(INPUT)
    if given & ends_at:
        ends.add(OUTPUT)
    return frozenset(kept | along), frozenset(ends)


def _inputs(one: Any) -> Sequence[str]:
    names: Sequence[str] = one.inputs
    return names


def _outputs(one: Any) -> Sequence[str]:
    names: Sequence[str] = one.outputs
    return names
