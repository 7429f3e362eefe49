"""Parts of the ONNX driver that need no toolchain: finding culprits, grouping, following, comparing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import model_folders

from compiler.toolchains import drivers

NAMES = [f"n{i}" for i in range(12)]


@pytest.fixture(scope="module", autouse=True)
def beside() -> Iterator[None]:
    """The folder of the drivers on the path, as it is where they run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(drivers.__file__).parent))
        yield


def module(name: str) -> ModuleType:
    return importlib.import_module(name)


@given(
    st.sets(st.sampled_from(NAMES), max_size=5),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=2),
)
def test_culprits_are_found_alone_and_in_company(
    alone: set[str], pairs: list[tuple[str, str]]
) -> None:
    def attempt(names: Sequence[str]) -> list[str]:
        for name in names:
            if name in alone:
                raise ValueError(name)
        for pair in pairs:
            if pair[0] != pair[1] and set(pair) <= set(names):
                raise KeyError(*pair)
        return list(names)

    made, fallen = module("onnx_static").settle(NAMES, attempt)
    assert made == [name for name in NAMES if name not in fallen]
    assert alone <= set(fallen)
    assert len(fallen) <= len(alone) + len(pairs)
    for name in alone:
        assert fallen[name].startswith(("ValueError", "KeyError"))


def test_what_raises_without_any_layer_is_the_models_fault() -> None:
    def attempt(names: Sequence[str]) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        module("onnx_static").settle(["a", "b"], attempt)


@given(st.lists(st.integers(0, 300), max_size=40), st.integers(1, 200))
def test_groups_hold_everything_once_in_order_and_no_more_than_they_may(
    sizes: list[int], most: int
) -> None:
    size = {f"t{i}": one for i, one in enumerate(sizes)}
    found = module("onnx_graph").groups(size, size, most)
    assert [name for group in found for name in group] == list(size)
    assert all(len(group) == 1 or sum(size[name] for name in group) <= most for group in found)


def test_what_moves_or_clips_follows_a_layer_unless_it_is_blocked() -> None:
    graph = module("onnx_graph")
    model = model_folders.classifier()
    graph.name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert names == [
        "Conv_0", "Relu_1", "Conv_2", "Relu_3", "GlobalAveragePool_4", "Flatten_5", "Gemm_6", "Softmax_7",
    ]  # fmt: skip
    assert graph.followers(model, ["Conv_0", "GlobalAveragePool_4"]) == ["Relu_1", "Flatten_5"]
    assert graph.followers(model, ["Conv_0"], {"Relu_1"}) == []
    assert graph.followers(model, ["Gemm_6"]) == []


@given(st.lists(st.sampled_from(["", "a", "a_1", "Relu_1"]), min_size=1, max_size=8))
def test_names_become_unique_and_the_first_of_each_stays(names: list[str]) -> None:
    model = onnx.ModelProto()
    for name in names:
        model.graph.node.add(op_type="Relu", name=name)
    module("onnx_graph").name_nodes(model)
    found = [node.name for node in model.graph.node]
    assert all(found)
    assert len(set(found)) == len(found)
    for name in set(names) - {""}:
        assert found[names.index(name)] == name
