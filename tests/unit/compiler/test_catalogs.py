"""Targets and recipes as data."""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import pytest

from compiler.errors import CatalogError
from compiler.recipes import catalog as recipes
from compiler.recipes.catalog import Recipe
from compiler.targets import catalog as targets
from compiler.toolchains import catalog as toolchains

SHIPPED = {
    "cpu-arm64", "cpu-x86-64", "litert-cpu", "onnx-cpu", "raspberry-pi-5",
    "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor",
    "rtx-ampere", "rtx-ada", "rtx-blackwell",
    "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512", "ethos-u85-256", "ethos-u85-512",
    "edgetpu", "rknn-rk3588", "qnn-htp-v73", "openvino-npu",
}  # fmt: skip
FASTEST_FIRST = ("int8", "int16x8", "fp16", "fp32")
COMPUTE = ["Conv", "ConvTranspose", "Gemm", "MatMul"]


def test_every_promised_target_ships() -> None:
    assert set(targets.names()) == SHIPPED


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_targets_ladder_goes_down_in_precision(name: str) -> None:
    target = targets.get(name)
    assert target.hardware_classes
    for tiers in filter(None, (target.ladder, target.fallback)):
        found = list(chain.from_iterable(tiers))
        assert len({recipe.name for recipe in found}) == len(found)
        ranks = [[FASTEST_FIRST.index(recipe.precision) for recipe in tier] for tier in tiers]
        # A tier that only makes files smaller holds int8 weights beside float16 ones.
        assert [max(tier) for tier in ranks] == sorted(max(tier) for tier in ranks)
        for tier in tiers:
            assert len({recipe.computes_in_integers for recipe in tier}) == 1


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_targets_last_word_runs_without_an_accelerator(name: str) -> None:
    """An engine has a fallback that ends in float; only a microcontroller's NPU stands alone."""
    target = targets.get(name)
    last = (target.fallback or target.ladder)[-1]
    if name.startswith("ethos-u55"):
        assert target.fallback == ()
    else:
        assert {recipe.precision for recipe in last} <= {"fp32"}
    if any(recipe.base for recipe in target.candidates):
        assert all(recipe.base is None for recipe in chain.from_iterable(target.fallback))
        assert target.machines == ()
    else:
        assert target.fallback == ()


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_runtime_of_a_target_says_versions_and_operators(name: str) -> None:
    target = targets.get(name)
    used = {r.loader for r in (*target.candidates, *chain.from_iterable(target.fallback))}
    assert used == set(target.runtime_versions)
    assert set(target.operators) - {targets.NPU} <= used
    # What plug-ins run is for their own compilers to say; of all else the operators are known.
    plug_ins = {"edgetpu", "rknn", "qnn", "openvino"}
    assert used - set(target.operators) <= plug_ins


def test_figures_are_a_targets_own_only_on_its_machines() -> None:
    assert targets.get("cpu-x86-64").figures_are_own("x86_64")
    assert not targets.get("cpu-arm64").figures_are_own("x86_64")
    # An aarch64 host is not yet a Raspberry Pi 5.
    assert not targets.get("raspberry-pi-5").figures_are_own("aarch64")


def test_what_stays_beside_the_npu_is_explained() -> None:
    target = targets.get("ethos-u85-256")
    assert target.beside_npu({"SIN": 2, "ADD": 1}) == [
        "ADD (its constraints are not met)",
        "SIN (the NPU has none)",
    ]
    assert target.beside_npu({}) == []


def test_jetsons_get_onnx_files_and_rtx_cards_engines() -> None:
    for name in ("jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-thor"):
        for recipe in targets.get(name).candidates:
            assert (recipe.toolchain, recipe.runtime, recipe.member) == (
                "",
                "tensorrt",
                "model.onnx",
            )
    found = {name: targets.get(name).engine.compute_capabilities for name in targets.names()}
    assert found["rtx-ampere"] == ("SM86",)
    assert found["rtx-ada"] == ("SM89",)
    assert found["rtx-blackwell"] == ("SM120",)
    assert all(r.toolchain == "tensorrt-rtx" for r in targets.get("rtx-ada").candidates)


def test_every_recipe_names_a_backend_with_a_toolchain() -> None:
    for name, recipe in recipes.load().items():
        assert recipe.name == name
        made_by = recipe.toolchain if recipe.base else recipe.backend
        assert not made_by or made_by in toolchains.names()
        assert 0 < recipe.parity_cosine_min <= 1


def test_every_recipe_is_on_some_ladder_or_a_variation_of_one_that_is() -> None:
    known = recipes.load()
    used = set()
    for name in targets.names():
        target = targets.get(name)
        used |= {r.name for r in (*target.candidates, *chain.from_iterable(target.fallback))}
    used |= {base.name for name in used if (base := known[name].base)}
    unused = {
        name for name in set(known) - used if not re.match(r"(qdq_static|onnx_dynamic)_", name)
    }
    assert unused == {"litert_static_wi8_ai16"} - used
    cpus = [targets.get(name) for name in targets.names() if targets.get(name).machines]
    assert not any(recipe.name == "onnx_fp16" for target in cpus for recipe in target.candidates)


GRAMMAR = {
    "litert": re.compile(
        r"litert_(?P<mode>fp32|fp16|dynamic|weight_only|static)"
        r"(_wi(?P<weight_bits>\d+)(?P<mse>mse)?)?(_ai(?P<activation_bits>\d+))?"
    ),
    "onnx": re.compile(
        r"(?P<head>qdq|onnx)_(?P<mode>fp32|fp16|dynamic|static)(_wi(?P<weight_bits>8))?"
        r"(_(?P<activation>[us]8)(?P<weight>[us]8))?(_(?P<granularity>pc|pt))?(?P<rr>_rr)?"
        r"(_(?P<tail>compute|trt))?"
    ),
}
DTYPES = {"u8": "uint8", "s8": "int8"}
MAKERS = {
    "rtx": ("tensorrt-rtx", "tensorrt-rtx"), "trt": ("", "tensorrt"), "vela": ("vela", "ethos-u"),
    "edgetpu": ("edgetpu", "edgetpu"), "rknn": ("rknn", "rknn"), "qnn": ("qnn", "qnn"),
    "openvino": ("openvino", "openvino"),
}  # fmt: skip


def decoded(recipe: Recipe) -> dict[str, Any]:
    """The settings that a recipe's name says, by the grammar in the reference alone."""
    match = GRAMMAR[recipe.backend].fullmatch(recipe.name)
    assert match, recipe.name
    said = match.groupdict()
    found: dict[str, Any] = {"mode": said["mode"]}
    if recipe.backend == "litert":
        if said["weight_bits"]:
            algorithm = "MSE" if said["mse"] else "MIN_MAX_UNIFORM_QUANT"
            found |= {"weight_bits": int(said["weight_bits"]), "algorithm": algorithm}
            found |= {"float_operators": []}
        if said["activation_bits"]:
            found |= {"activation_bits": int(said["activation_bits"]), "operators": []}
        return found
    assert said["head"] == ("qdq" if said["mode"] == "static" else "onnx")
    if said["granularity"]:
        found |= {"per_channel": said["granularity"] == "pc", "reduce_range": bool(said["rr"])}
    if said["mode"] == "static":
        found |= {
            "activation": DTYPES[said["activation"]],
            "weight": DTYPES[said["weight"]],
            "operators": COMPUTE if said["tail"] else [],
            "tensorrt": said["tail"] == "trt",
        }
    return found


@pytest.mark.parametrize("name", sorted(recipes.load()))
def test_a_recipes_name_decodes_into_its_settings(name: str) -> None:
    recipe = recipes.get(name)
    if recipe.base is None:
        assert decoded(recipe) == recipe.settings
        return
    maker, _, base = name.partition("_")
    assert base == recipe.base.name
    assert MAKERS[maker] == (recipe.toolchain, recipe.runtime)
    assert (recipe.mode, recipe.precision) == (recipe.base.mode, recipe.base.precision)


def test_only_full_range_int8_saturates() -> None:
    for name, recipe in recipes.load().items():
        if recipe.backend == "onnx" and recipe.computes_in_integers:
            assert recipe.saturates is not recipe.settings["reduce_range"], name
        elif recipe.base is None:
            assert not recipe.saturates


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(CatalogError, match="expected a target of cpu-arm64"):
        targets.get("toaster")
    with pytest.raises(CatalogError, match="expected a recipe of"):
        recipes.get("toaster")
