"""The gates: what each lets through, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.evaluate import gates
from compiler.evaluate.evidence import Evidence
from compiler.evaluate.gates import Speed
from compiler.evaluate.jobs import Result
from compiler.evaluate.race import Latency
from compiler.graph import data
from compiler.graph.folder import MetricRule
from compiler.recipes import catalog as recipes
from compiler.service import packing
from compiler.targets import catalog as targets
from compiler.toolchains import source
from compiler.toolchains.steps import Built
from fleet.artifact import parity
from fleet.artifact.manifest import InputSpec
from fleet.artifact.parity import OutputParity, Parity

ANY = replace(targets.get("litert-cpu"), operators={})
LISTED = replace(ANY, operators={"litert": frozenset({"ADD", "CONV_2D"})})
DYNAMIC = recipes.get("litert_dynamic_wi8")
FP32 = recipes.get("litert_fp32")


def built(**given: object) -> Built:
    fields = {"runtime": "litert", "member": "m", "payload": b"x" * 1000, "operators": {"ADD": 1}}
    return Built(**{**fields, **given})  # type: ignore[arg-type]


def test_structure_refuses_custom_operators_and_float_in_disguise() -> None:
    assert gates.structure(built(quantized_weights=3), DYNAMIC, ANY).passed
    custom = gates.structure(built(operators={"CustomThing": 1}, quantized_weights=3), DYNAMIC, ANY)
    assert custom.passed is False
    assert "CustomThing" in custom.detail
    disguised = gates.structure(built(quantized_weights=0), DYNAMIC, ANY)
    assert disguised.detail == "nothing was quantized"
    assert gates.structure(built(quantized_weights=0), FP32, ANY).passed


def test_structure_takes_only_what_the_target_lists() -> None:
    good = built(operators={"ADD": 4, "CONV_2D": 2})
    assert gates.structure(good, FP32, LISTED).passed
    bad = gates.structure(built(operators={"ADD": 4, "WHILE": 1}), FP32, LISTED)
    assert bad.passed is False
    assert "['WHILE']" in bad.detail
    other = built(runtime="onnxruntime", operators={"Loop": 1})
    assert gates.structure(other, FP32, LISTED).passed


def test_structure_tells_what_the_quantizer_could_not_take() -> None:
    found = gates.structure(built(quantized_weights=1, fallen={"conv1": "raised"}), DYNAMIC, ANY)
    assert found.passed
    assert "1 stay in float" in found.detail


def test_size_refuses_what_grew_absurdly() -> None:
    assert gates.size(built(), ANY, 1000).passed
    assert not gates.size(built(payload=bytes(2 << 20)), ANY, 1000).passed


def test_memory_is_held_against_the_target() -> None:
    small = replace(ANY, memory_mib=64)
    assert gates.memory(built(), Result(peak_memory_mib=63.9), small).passed
    assert not gates.memory(built(), Result(peak_memory_mib=64.1), small).passed


def test_memory_that_a_compiler_planned_counts_before_what_its_stand_in_took() -> None:
    tiny = replace(ANY, memory_mib=2)
    planned = {"sram_kib": 1024.0, "dram_kib": 512.0, "cycles": 7.0}
    found = gates.memory(built(info={"estimates": planned}), Result(peak_memory_mib=64), tiny)
    assert found.passed
    assert found.detail == "1.5 MiB planned of at most 2 MiB"
    planned["dram_kib"] = 1025.0
    assert not gates.memory(built(info={"estimates": planned}), Result(), tiny).passed


def test_structure_says_what_stays_beside_the_npu() -> None:
    npu = targets.get("ethos-u85-256")
    file = built(
        runtime="ethos-u",
        operators={"ethos-u": 2, "SIN": 1},
        quantized_weights=3,
        info={"cpu_operators": {"SIN": 1}},
        stand_in=built(),
    )
    found = gates.structure(file, npu.candidates[0], npu)
    assert found.passed
    assert "on the processor beside the NPU: SIN (the NPU has none)" in found.detail
    foreign = replace(file, operators={"ethos-u": 1, "FLEX": 1}, info={})
    assert "does not have: ['FLEX']" in gates.structure(foreign, npu.candidates[0], npu).detail


def answered(cosine: float, max_abs: float) -> Result:
    output = OutputParity(cosine=cosine, max_abs=max_abs, snr_db=30.0)
    return Result(parity=Parity(cosine_min=cosine, max_abs=max_abs, outputs={"y": output}))


def test_a_float_file_must_give_the_same_answers() -> None:
    assert gates.parity(answered(1.0, 0.0009), FP32, 10.0).passed
    off = gates.parity(answered(1.0, 0.0011), FP32, 10.0)
    assert off.passed is False
    assert "at most 0.001" in off.detail


def test_an_integer_file_must_point_the_same_way() -> None:
    assert gates.parity(answered(0.95, 3.0), DYNAMIC, 10.0).passed
    assert not gates.parity(answered(0.89, 0.1), DYNAMIC, 10.0).passed


@pytest.mark.parametrize(
    ("loss", "passed"), [(0.01, True), (-0.2, True), (0.0101, False), (0.02, False)]
)
def test_the_budget_is_held_in_the_metrics_own_units(loss: float, passed: bool) -> None:
    proof = Evidence(
        loss=loss, loss_lower=loss - 0.01, loss_upper=loss + 0.01, strength="weak", samples=90,
        samples_needed=700, method="",
    )  # fmt: skip
    rule = MetricRule(name="top1", budget=0.01)
    gate = gates.metric(rule, Result(metric=0.9 - loss, reference=0.9, evidence=proof))
    assert gate.passed is passed
    assert f"loss {loss:.4f} of at most 0.01" in gate.detail
    assert "700 samples would decide, 90 were there" in gate.detail


def test_without_a_selection_split_the_gate_says_so_and_passes() -> None:
    gate = gates.selection(MetricRule(name="top1", budget=0.01), Result())
    assert gate.passed
    assert "no selection split" in gate.detail


def latency(p50: float) -> Latency:
    return Latency(p50=p50, p95=p50)


def test_an_integer_file_that_is_not_faster_is_not_chosen() -> None:
    def judged(candidate: float, recipe: str = "litert_dynamic_wi8", source: str = "this host"):
        speed = Speed(candidate=latency(candidate), baseline=latency(2.0), source=source)
        return gates.speed(recipes.get(recipe), speed).passed

    assert judged(1.9)
    assert judged(2.0) is False
    assert judged(3.0, source="12 devices") is False
    assert judged(3.0, source="") is None  # an estimate decides nothing
    assert judged(2.1, "litert_weight_only_wi8")  # it is smaller, and computes the same
    assert judged(2.3, "litert_weight_only_wi8") is False
    assert judged(9.0, "litert_fp32")


def test_speed_that_was_not_measured_is_not_run() -> None:
    found = gates.speed(DYNAMIC, Speed(candidate=None, baseline=None, source=""))
    assert found.passed is None


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
    assert source.fixed_shapes(specs, samples) == {"x": [1, 3], "state": [2, 1, 4]}
