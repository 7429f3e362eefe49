"""Targets and recipes as data, and the ladder's gates."""

from __future__ import annotations

import pytest

from compiler.errors import CatalogError
from compiler.recipes import catalog as recipes
from compiler.targets import catalog as targets
from compiler.toolchains import catalog as toolchains


def test_every_target_has_a_ladder_that_ends_in_float() -> None:
    assert {"litert-cpu", "onnx-cpu", "cpu-arm64", "cpu-x86-64", "rtx-ada"} <= set(targets.names())
    for name in targets.names():
        target = targets.get(name)
        assert target.hardware_classes
        assert target.candidates[-1].precision == "fp32"
        assert len({recipe.name for recipe in target.candidates}) == len(target.candidates)


def test_every_recipe_names_a_backend_with_a_toolchain() -> None:
    for name, recipe in recipes.load().items():
        assert recipe.name == name
        made_by = recipe.toolchain if recipe.base else recipe.backend
        assert not made_by or made_by in toolchains.names()
        assert 0 < recipe.parity_cosine_min <= 1


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(CatalogError, match="expected a target of cpu-arm64"):
        targets.get("toaster")
    with pytest.raises(CatalogError, match="expected a recipe of"):
        recipes.get("toaster")
