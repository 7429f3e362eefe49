"""The LiteRT driver's parts that need no toolchain: what weights meet, and which operators go to the refuge together."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.toolchains import drivers


@pytest.fixture(scope="module", autouse=True)
def beside() -> Iterator[None]:
    """The folder of the drivers on the path, as it is where they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(drivers.__file__).parent))
        yield


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@given(
    size=st.integers(1, 9),
    length=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    same=st.booleans(),
)
def test_kernels_meet_padding_at_the_edges(
    *, size: int, length: int, stride: int, dilation: int, same: bool
) -> None:
    reach = (length - 1) * dilation + 1
    if not same and size < reach:
        return
    places = module("litert_bias")._places(size, length, stride, dilation, same=same)
    values = np.random.default_rng(0).normal(size=size)
    answers = -(-size // stride) if same else (size - reach) // stride + 1
    total = max((answers - 1) * stride + reach - size, 0) if same else 0
    padded = np.pad(values, (total // 2, total - total // 2))
    met = [
        np.mean([padded[at * stride + k * dilation] for at in range(answers)])
        for k in range(length)
    ]
    np.testing.assert_allclose(places @ values, met, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_shift_is_what_rounded_weights_add_in_the_mean(groups: int) -> None:
    bias = module("litert_bias")
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(6, 3, 3, 4)).astype(np.float32)
    met = rng.normal(size=(3, 3, 4 * groups))
    error = bias.rounding(weights, 0, 8)
    assert np.abs(error).max() <= np.abs(weights).max() / 127 / 2 * 1.001
    each = 6 // groups
    wanted = [(error[o] * met[:, :, (o // each) * 4 : (o // each) * 4 + 4]).sum() for o in range(6)]
    np.testing.assert_allclose(bias._shift(weights, "CONV_2D", met, 8), wanted)


def test_a_depthwise_shift_takes_each_channel_by_itself() -> None:
    bias = module("litert_bias")
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(1, 3, 3, 4)).astype(np.float32)
    met = rng.normal(size=(3, 3, 2))
    error = bias.rounding(weights, 3, 8)
    wanted = [(error[0, :, :, o] * met[:, :, o // 2]).sum() for o in range(4)]
    np.testing.assert_allclose(bias._shift(weights, "DEPTHWISE_CONV_2D", met, 8), wanted)


def operator(name: str, kind: str, inputs: str, outputs: str) -> object:
    return module("litert_file").Operator(
        name=name, op=kind, inputs=tuple(inputs.split()), outputs=tuple(outputs.split())
    )


def chain() -> SimpleNamespace:
    """x → conv a → reshape b → conv c → concatenation d with e's → y; x → conv e."""
    return SimpleNamespace(
        inputs=["x"],
        outputs=["y"],
        operators=[
            operator("a;", "CONV_2D", "x", "a"),
            operator("b;", "RESHAPE", "a", "b"),
            operator("c;", "CONV_2D", "b", "c"),
            operator("e;", "CONV_2D", "x", "e"),
            operator("y;", "CONCATENATION", "c e", "y"),
        ],
    )


@pytest.mark.parametrize(
    ("kept", "refuge", "ends"),
    [
        ((), (), ()),
        (("a;",), ("a;",), ("INPUT",)),
        (("a;", "c;"), ("a;", "b;", "c;", "y;"), ("INPUT", "OUTPUT")),
        (("c;",), ("c;", "y;"), ("OUTPUT",)),
    ],
)
def test_what_stands_between_kept_layers_goes_along(
    kept: tuple[str, ...], refuge: tuple[str, ...], ends: tuple[str, ...]
) -> None:
    found = module("litert_recipe").spared(chain(), frozenset(kept))
    assert found == (frozenset(refuge), frozenset(ends))


def test_refusals_name_the_operator() -> None:
    convert = module("litert_convert")

    def model(*kinds: str) -> SimpleNamespace:
        nodes = [SimpleNamespace(op_type=kind) for kind in kinds]
        return SimpleNamespace(graph=SimpleNamespace(node=nodes))

    assert convert.blamed(model("Conv", "If"), ["op=If is not known"]) == (
        "operator If is not converted"
    )
    assert convert.blamed(model("Relu"), ["no reason"]) == "operator Relu is not converted"
    assert convert.blamed(model(*"ABCDE"), ["..."]).startswith("one of 5 kinds of operators")
