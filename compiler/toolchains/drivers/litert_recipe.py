"""Which operator of a LiteRT file gets which precision, as a recipe of ai-edge-quantizer.

Laid beside the driver ``litert``. Kept layers are in the refuge, and so are the operators between two of them that only
move values, and the ends of the model that they touch: precision that was paid for is not lost on the way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from litert_file import MOVES, LiteRtFile, Operator

INPUT: Final = "INPUT"
OUTPUT: Final = "OUTPUT"


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


def recipe(
    file: LiteRtFile, settings: Settings, fallen: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """An ai-edge-quantizer recipe from ours."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    manager = recipe_manager.RecipeManager()
    _base(manager, settings)
    every, nothing = qtyping.TFLOperationName.ALL_SUPPORTED, AlgorithmName.NO_QUANTIZE
    for name in settings.float_operators:
        manager.add_quantization_config(".*", qtyping.TFLOperationName[name], algorithm_key=nothing)
    refuge, ends = spared(file, settings.kept)
    for name in sorted(refuge | (fallen - {INPUT, OUTPUT})):
        manager.add_quantization_config(f"^{re.escape(name)}$", every, algorithm_key=nothing)
    if settings.mode == "static":
        wide = settings.refuge == "int16"
        for name in sorted(refuge - fallen) if wide else []:
            _static(manager, settings, f"^(?:{re.escape(name)})$", every.name, 16)
        for end in (INPUT, OUTPUT):
            # The last word: the scope of an end can be that of an operator.
            chosen = not settings.operators or end in settings.operators
            if end in fallen or not chosen or (end in ends and not wide):
                name = qtyping.TFLOperationName[end]
                manager.add_quantization_config("^.*$", name, algorithm_key=nothing)
            else:
                bits = 16 if end in ends else settings.activation_bits
                _static(manager, settings, "^.*$", end, bits)
    found: list[dict[str, Any]] = manager.get_quantization_recipe()
    return found


def _base(manager: Any, settings: Settings) -> None:
    """What every operator gets that is not an exception."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    every = qtyping.TFLOperationName.ALL_SUPPORTED
    algorithm = AlgorithmName[settings.algorithm]
    if settings.mode == "static":
        for operator in settings.operators or (every.name,):
            _static(manager, settings, ".*", operator, settings.activation_bits)
    elif settings.mode == "dynamic":
        manager.add_dynamic_config(".*", every, settings.weight_bits, algorithm_key=algorithm)
    elif settings.mode == "weight_only":
        manager.add_weight_only_config(".*", every, settings.weight_bits, algorithm_key=algorithm)
    elif settings.mode == "fp16":
        manager.add_weight_only_config(".*", every, 16, algorithm_key=AlgorithmName.FLOAT_CASTING)
    else:
        raise ValueError(
            f"expected the mode static, dynamic, weight_only or fp16, found {settings.mode!r}"
        )


def _static(
    manager: Any, settings: Settings, regex: str, operator: str, activation_bits: int
) -> None:
    """A rule for an operator; by plain ranges first, which stay where the algorithm does not know the operator."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    name, bits = qtyping.TFLOperationName[operator], settings.weight_bits
    manager.add_static_config(regex, name, activation_bits, bits)
    algorithm = AlgorithmName[settings.algorithm]
    if algorithm != AlgorithmName.MIN_MAX_UNIFORM_QUANT and operator not in {INPUT, OUTPUT}:
        # Under another spelling of the scope: the same one would take the place of the first rule.
        manager.add_static_config(
            f"(?:{regex})", name, activation_bits, bits, algorithm_key=algorithm
        )


def spared(file: LiteRtFile, kept: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Scopes that go to the refuge with the kept layers, and the ends of the model that do.

    An operator that only moves values goes along when it takes from the refuge and gives to it, or to an end of
    the model; so does an end of the model that a kept layer touches, directly or through such operators.
    """
    if not kept:
        return frozenset(), frozenset()
    layers = [one for one in file.operators if one.name in kept]
    moves = [one for one in file.operators if one.op in MOVES and one.name not in kept]
    given = _reached({name for one in layers for name in one.outputs}, moves, forward=True)
    wanted = _reached({name for one in layers for name in one.inputs}, moves, forward=False)
    started = _reached(set(file.inputs), moves, forward=True)
    ending = _reached(set(file.outputs), moves, forward=False)
    along = set()
    for one in moves:
        takes, gives = given.intersection(one.inputs), wanted.intersection(one.outputs)
        if (takes and (gives or ending.intersection(one.outputs))) or (
            gives and started.intersection(one.inputs)
        ):
            along.add(one.name)
    ends = set()
    if wanted.intersection(file.inputs):
        ends.add(INPUT)
    if given.intersection(file.outputs):
        ends.add(OUTPUT)
    return frozenset(kept | along), frozenset(ends)


def _reached(tensors: set[str], moves: Sequence[Operator], *, forward: bool) -> set[str]:
    """Tensors that are one of these, or come from (or go to) one through moves alone."""
    found = set(tensors)
    # Operators stand in the order that they run in: one pass in that order, or against it, meets all.
    for one in moves if forward else reversed(moves):
        near, far = (one.inputs, one.outputs) if forward else (one.outputs, one.inputs)
        if found.intersection(near):
            found.update(far)
    return found
