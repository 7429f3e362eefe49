"""Targets and recipes as data, and the ladder's gates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.errors import CatalogError
from compiler.evaluate import gates
from compiler.evaluate.evidence import Evidence
from compiler.graph import data
from compiler.graph.folder import MetricRule
from compiler.recipes import catalog as recipes
from compiler.service import packing
from compiler.targets import catalog as targets
from compiler.toolchains import catalog as toolchains
from compiler.toolchains import steps
from compiler.toolchains.steps import Built
from fleet.artifact import parity
from fleet.artifact.manifest import InputSpec


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
        assert recipe.backend in toolchains.names()
        assert 0 < recipe.parity_cosine_min <= 1


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(CatalogError, match="expected a target of cpu-arm64"):
        targets.get("toaster")
    with pytest.raises(CatalogError, match="expected a recipe of"):
        recipes.get("toaster")


def built(**given: object) -> Built:
    fields = {"runtime": "litert", "member": "m", "payload": b"x" * 1000, "operators": {"ADD": 1}}
    return Built(**{**fields, **given})  # type: ignore[arg-type]


def test_structure_refuses_custom_operators_and_float_in_disguise() -> None:
    recipe = recipes.get("litert_dynamic_wi8")
    assert gates.structure(built(quantized_weights=3), recipe).passed
    custom = gates.structure(built(operators={"CustomThing": 1}, quantized_weights=3), recipe)
    assert custom.passed is False
    assert "CustomThing" in custom.detail
    assert gates.structure(built(quantized_weights=0), recipe).detail == "nothing was quantized"
    assert gates.structure(built(quantized_weights=0), recipes.get("litert_fp32")).passed


def test_size_refuses_what_grew_absurdly() -> None:
    target = targets.get("litert-cpu")
    assert gates.size(built(), target, 1000).passed
    assert not gates.size(built(payload=bytes(2 << 20)), target, 1000).passed


def test_the_budget_is_held_in_the_metrics_own_units() -> None:
    rule = MetricRule(name="top1", budget=0.01)

    def judged(loss: float) -> gates.Gate:
        evidence = Evidence(loss=loss, loss_upper=None, strength="weak", samples=1, method="")
        return gates.metric(rule, evidence, value=0.9 - loss, reference=0.9)

    assert judged(0.01).passed
    assert judged(-0.2).passed
    assert not judged(0.0101).passed
    assert "loss 0.0200 of at most 0.01" in judged(0.02).detail


def test_tolerance_has_room_and_still_refuses_another_model() -> None:
    rng = np.random.default_rng(0)
    expected = {"y": rng.normal(size=(8, 10))}
    found = {"y": expected["y"] + rng.normal(0, 0.02, (8, 10))}
    measured = parity.compare(expected, found)
    for precision in ("int8", "fp16", "fp32"):
        allowed = packing.tolerance(measured, precision, expected)
        assert parity.passes(measured, allowed)
        other = parity.compare(expected, {"y": rng.normal(size=(8, 10))})
        assert not parity.passes(other, allowed)


def test_backends_with_fixed_shapes_take_one_samples() -> None:
    specs = [
        InputSpec(name="x", dtype="float32", shape=[None, 3]),
        InputSpec(name="state", dtype="float32", shape=[2, None, 4]),
    ]
    arrays = {"x": np.zeros((5, 3), np.float32), "state": np.zeros((5, 2, 1, 4), np.float32)}
    samples = data.samples(Path("c.npz"), arrays, specs)
    assert steps.fixed_shapes(specs, samples) == {"x": [1, 3], "state": [2, 1, 4]}
