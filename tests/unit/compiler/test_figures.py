"""What devices reported replaces estimates; junk is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from compiler.errors import DataError
from compiler.service import figures
from compiler.service.figures import Figure, FigureFile, Figures
from compiler.targets import catalog as targets

TARGET = targets.get("cpu-arm64")


def figure(recipe: str, p50: float, *, devices: int = 1, hardware: str = "cpu-arm64") -> Figure:
    return Figure(
        hardware_class=hardware,
        recipe=recipe,
        latency_ms_p50=p50,
        latency_ms_p95=p50,
        devices=devices,
    )


def test_figures_of_the_targets_classes_are_found_by_variant() -> None:
    known = Figures(
        (
            figure("litert_fp32", 9.0),
            figure("litert_dynamic_wi8", 4.0, devices=2),
            figure("litert_dynamic_wi8", 3.0, devices=7),
            figure("litert_dynamic_wi8", 1.0, devices=99, hardware="cpu-x86-64"),
            figure("onnx_fp32", 8.0),
        )
    )
    found = known.of(TARGET, ["litert_fp32", "litert_dynamic_wi8"])
    assert {name: one.p50 for name, one in found.latencies.items()} == {
        "litert_fp32": 9.0, "litert_dynamic_wi8": 3.0,
    }  # fmt: skip
    assert found.source == "8 devices"


def test_a_file_is_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    good = FigureFile(format=figures.FORMAT, figures=[figure("litert_fp32", 2.0)])
    path.write_bytes(msgspec.json.encode(good))
    assert figures.load(path).figures == (figure("litert_fp32", 2.0),)
    for content, message in (
        (b"{", "expected figures as JSON"),
        (b'{"format": "outrider/figures/9", "figures": []}', "expected 'outrider/figures/1'"),
        (b'{"format": "outrider/figures/1", "figures": [{"recipe": 3}]}', r"figures\[0\]"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            figures.load(path)
    with pytest.raises(DataError, match="No such file"):
        figures.load(tmp_path / "none.json")
