"""Vela for real: every accelerator that ships as a target, what stays on the processor, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import model_folders
from support.litert_files import int8_chain

from compiler.errors import BuildError
from compiler.service import compile as compiling
from compiler.service.report import Candidate, Report, Verdict
from compiler.targets import catalog as targets
from compiler.toolchains import catalog, driver
from fleet.artifact import package

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]
MODELS = Path(__file__).parents[2] / "data" / "models"
NPUS = [name for name in targets.names() if name.startswith("ethos-u")]
INT8 = int8_chain("ADD", "MUL", "SUB")


def finish(data: bytes, target: str, **options: object) -> driver.Answer:
    settings = {**targets.get(target).engine.settings, **options}
    return driver.call(
        catalog.get("vela"), "finish", files={"model.tflite": data}, options=settings
    )


@pytest.mark.parametrize("name", NPUS)
def test_an_int8_file_goes_to_the_npu(name: str) -> None:
    found = finish(INT8, name)
    assert found.info["operators"] == {"ethos-u": 1}
    assert found.info["npu_operators"] == 3
    assert found.info["cpu_operators"] == {}
    estimates = found.info["estimates"]
    assert estimates["cycles"] > 0
    assert estimates["inference_ms"] > 0
    assert estimates["sram_kib"] > 0
    assert found.info["version"].startswith("5.2.")
    assert set(found.info["operators"]) <= targets.get(name).operators["ethos-u"]


def test_what_stays_on_the_processor_is_counted() -> None:
    found = finish(int8_chain("ADD", "SIN", "MUL", "SIN"), "ethos-u85-256")
    assert found.info["operators"] == {"SIN": 2, "ethos-u": 2}
    assert found.info["cpu_operators"] == {"SIN": 2}
    assert found.info["npu_operators"] == 2
    assert targets.get("ethos-u85-256").beside_npu(found.info["cpu_operators"]) == [
        "SIN (the NPU has none)"
    ]


def test_the_same_file_gives_the_same_bytes() -> None:
    assert finish(INT8, "ethos-u55-128").files == finish(INT8, "ethos-u55-128").files


def test_more_multipliers_take_fewer_cycles_of_the_npu() -> None:
    cycles = [
        finish(INT8, name).info["estimates"]["cycles_npu"]
        for name in ("ethos-u55-128", "ethos-u55-256")
    ]
    assert cycles[1] <= cycles[0]


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((MODELS / "classify.tflite").read_bytes(), {}, "placed no operator on the NPU; all stay"),
        (b"junk" * 100, {}, "vela finish"),
        (INT8[: len(INT8) // 2], {}, "vela finish"),
        (INT8, {"accelerator_config": "ethos-u99"}, "expected an accelerator of ethos-u55-32"),
        (INT8, {"memory_mode": "Nowhere"}, "Memory_Mode.Nowhere not found"),
    ],
)
def test_what_it_cannot_do_is_a_build_error(
    data: bytes, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        finish(data, "ethos-u85-256", **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    place = tmp_path_factory.mktemp("vela")
    model_folders.write(place / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTRIDER_CACHE", str(place / "cache"))
        patch.setenv("OUTRIDER_COMPILE_KEY", str(place / "key.pem"))
        request = compiling.Request(
            folder=place / "tiny", targets=["ethos-u85-256", "ethos-u55-128"], out=place / "out"
        )
        return compiling.run(request), place / "out"


@pytest.mark.parametrize("name", ["ethos-u85-256", "ethos-u55-128"])
def test_a_model_becomes_an_unproven_binary(report: tuple[Report, Path], name: str) -> None:
    document, out = report
    (target,) = [one for one in document.targets if one.target == name]
    chosen = target.chosen
    assert isinstance(chosen, Candidate)
    assert chosen.verdict is Verdict.UNPROVEN
    assert set(chosen.tools) == {"vela", "litert"}
    gates = {gate.name: gate for gate in chosen.gates}
    assert gates["structure"].passed
    assert gates["memory"].passed
    assert "planned" in gates["memory"].detail
    assert gates["parity"].passed is None
    assert gates["parity"].stand_in == "model.tflite in litert"
    made = package.read((out / chosen.path).read_bytes())
    assert made.manifest.runtime == "ethos-u"
    assert made.manifest.payload.member == "model_vela.tflite"
    assert made.manifest.status == "unproven"
    assert b"ethos-u" in made.payload


def test_cores_beside_the_npu_get_a_fallback_and_microcontrollers_none(
    report: tuple[Report, Path],
) -> None:
    found = {one.target: one.fallback for one in report[0].targets}
    assert found["ethos-u55-128"] is None
    fallback = found["ethos-u85-256"]
    assert fallback is not None
    assert fallback.verdict is Verdict.ACCEPTED
    assert fallback.runtime == "litert"
