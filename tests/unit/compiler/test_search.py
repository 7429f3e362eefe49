"""Which variant of a recipe is the best one."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler.evaluate.child import Evaluation
from compiler.evaluate.evidence import Evidence
from compiler.evaluate.gates import Gate
from compiler.evaluate.jobs import Result
from compiler.recipes import catalog
from compiler.recipes.variant import Variant
from compiler.service import search
from compiler.service.screen import Screened
from compiler.toolchains.steps import Built
from fleet.artifact.parity import OutputParity, Parity

RECIPE = catalog.get("litert_static_wi8_ai8")


def screened(
    name: str, *, loss: float, snr_db: float, error: float = 0.01, passed: bool = True
) -> Screened:
    proof = Evidence(
        loss=loss, loss_upper=loss + 1.6448536 * error, strength="weak", samples=100, method=""
    )
    output = OutputParity(cosine=0.99, max_abs=0.1, snr_db=snr_db)
    parity = Parity(cosine_min=0.99, max_abs=0.1, outputs={"y": output})
    return Screened(
        variant=Variant(recipe=RECIPE, calibrator=name),
        built=Built(runtime="litert", member="model.tflite", payload=b"x"),
        evaluation=Evaluation(
            result=Result(evidence=proof, parity=parity), arrays={}, folder=Path()
        ),
        gates=(Gate(name="selection", passed=passed, detail=""),),
    )


def test_within_the_noise_of_the_metric_the_closer_answers_win() -> None:
    lucky = screened("minmax", loss=0.000, snr_db=18)
    close = screened("mse", loss=0.008, snr_db=27)
    far = screened("entropy", loss=0.080, snr_db=40)
    assert search.best_of([lucky, close, far]) is close


def test_what_fails_a_gate_is_not_the_best_while_another_passes() -> None:
    fails = screened("minmax", loss=0.0, snr_db=40, passed=False)
    passes = screened("mse", loss=0.009, snr_db=12)
    assert search.best_of([fails, passes]) is passes


def test_where_all_fail_the_best_still_stands_for_the_recipe() -> None:
    near = screened("minmax", loss=0.03, snr_db=15, passed=False)
    far = screened("mse", loss=0.30, snr_db=9, passed=False)
    assert search.best_of([far, near]) is near


@pytest.mark.parametrize("count", [1, 3])
def test_what_could_not_be_built_says_why(count: int) -> None:
    broken = [Screened(variant=Variant(recipe=RECIPE), problem=f"crash {i}") for i in range(count)]
    assert search.best_of(broken).problem == "crash 0"
