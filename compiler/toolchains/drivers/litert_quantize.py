"""Quantization of a float LiteRT file by ai-edge-quantizer, one operator's trouble at a time.

Laid beside the driver ``litert``. Rules:
- Ranges of activations are ours (see ``ranges``), handed over as the statistics that its own calibration makes.
- An operator that the quantizer raises on, or whose quantized form the interpreter refuses, stays float, and
  the answer says why; the model goes on.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import litert_bias
import numpy as np
from litert_file import LiteRtFile, interpreter, scope, text
from litert_recipe import INPUT, OUTPUT, Settings, recipe, spared

_MOST_FALLS: Final = 40
_NOTHING: Final = (-1.0, 1.0)
"""Range of an activation that is always zero: there is nothing to scale, and a scale must not be zero."""


class QuantizationError(RuntimeError):
    """A model that cannot be quantized at all."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is known of activations.

    Attributes:
        ranges: smallest and largest value that a tensor's grid must hold.
        means: what the weights of each operator meet in the mean.
    """

    ranges: Mapping[str, tuple[float, float]]
    means: litert_bias.Means = field(default_factory=dict)


@dataclass
class Quantized:
    """A file and what became of its operators.

    Attributes:
        fallen: reasons of operators that stayed float although the recipe would have them.
    """

    content: bytes = b""
    layers: list[str] = field(default_factory=list)
    fallen: dict[str, str] = field(default_factory=dict)


def quantize(
    file: LiteRtFile, settings: Settings, calibration: Calibration | None = None
) -> Quantized:
    """A quantized file.

    Raises:
        QuantizationError: the quantizer or the interpreter refuses it, and does not say for which operator.
    """
    found = Quantized()
    for _ in range(_MOST_FALLS):
        try:
            before = len(found.fallen)
            _attempt(file, settings, calibration, found)
            if len(found.fallen) > before:
                continue  # their neighbours are to be made anew, and their biases left alone
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


def _attempt(
    file: LiteRtFile, settings: Settings, calibration: Calibration | None, found: Quantized
) -> None:
    from ai_edge_quantizer import quantizer

    rules = recipe(file, settings, frozenset(found.fallen))
    start, known = prepared(file, settings, calibration, frozenset(found.fallen))
    quantization = quantizer.Quantizer(start.content)
    quantization.load_quantization_recipe(rules)
    taken: list[str] = []
    with noting(taken, found.fallen):
        result = quantization.quantize(
            known,
            enable_progress_bar=False,
            enable_progress_report=False,
        )
    found.content = bytes(result.quantized_model)
    layers = {layer["name"] for layer in file.layers()}
    found.layers = [name for name in taken if name in layers]
    _check(found.content)


def _check(content: bytes) -> None:
    """Run the file once on zeros: the interpreter refuses combinations of types when it gets to them."""
    runs = interpreter(content)
    for detail in runs.get_input_details():
        runs.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    runs.invoke()


def prepared(
    file: LiteRtFile, settings: Settings, calibration: Calibration | None, fallen: frozenset[str]
) -> tuple[LiteRtFile, dict[str, dict[str, Any]] | None]:
    """The file that the quantizer starts from, and the statistics that it is given."""
    if calibration is None:
        return file, None
    known = statistics(file, calibration.ranges)
    if settings.algorithm == "MIN_MAX_UNIFORM_QUANT" and calibration.means:
        floats = spared(file, settings.kept)[0] if settings.refuge == "float" else frozenset()
        spare = floats | fallen
        file = litert_bias.corrected(file, calibration.means, settings.weight_bits, spare=spare)
    return file, known


def statistics(
    file: LiteRtFile, ranges: Mapping[str, tuple[float, float]]
) -> dict[str, dict[str, Any]]:
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
