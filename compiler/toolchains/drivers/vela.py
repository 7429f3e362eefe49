"""Driver of the toolchain ``vela``: LiteRT files for Arm's Ethos-U NPUs.

Runs inside that toolchain's environment (see `compiler.toolchains.driver`), as a script of its own.

Rules:
- Vela ends well also when it placed nothing on the NPU; that is a failure here.
- What stays on the processor is read from the compiled file, not from what Vela prints.
- Its figures are estimates of its performance model, for the system configuration that was named.
"""

from __future__ import annotations

import csv
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ethosu.vela import vela
from ethosu.vela.architecture_features import Accelerator
from ethosu.vela.tflite.BuiltinOperator import BuiltinOperator
from ethosu.vela.tflite.Model import Model

CONFIGURATION = "Arm/vela.ini"
NPU = "ethos-u"
FIGURES = {
    "inference_time": ("inference_ms", 1e3),
    "cycles_total": ("cycles", 1.0),
    "cycles_npu": ("cycles_npu", 1.0),
    "nn_macs": ("macs", 1.0),
    "sram_memory_used": ("sram_kib", 1.0),
    "dram_memory_used": ("dram_kib", 1.0),
    "on_chip_flash_memory_used": ("on_chip_flash_kib", 1.0),
    "off_chip_flash_memory_used": ("off_chip_flash_kib", 1.0),
}
"""Columns of Vela's summary, as this driver's answer names them, and the factor to its unit."""


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Say which Vela is there; importing it is the test."""
    return {"modules": ["ethosu.vela"], "version": version("ethos-u-vela")}


def finish(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.tflite`` to ``model_vela.tflite``.

    Options: ``accelerator_config`` such as ``ethos-u55-128``; ``system_config`` and ``memory_mode`` of
    Vela's own configuration file; ``optimise``, ``Performance`` or ``Size``; ``arena_cache_bytes``, the SRAM
    that it may plan with, where the memory mode's own is not meant.
    """
    known = Accelerator.member_list()
    if options["accelerator_config"] not in known:
        raise ValueError(
            f"expected an accelerator of {', '.join(known)}, found {options['accelerator_config']!r}"
        )
    source = inputs / "model.tflite"
    before = operators(source)
    arguments = [
        str(source),
        *("--output-dir", str(outputs)),
        *("--config", CONFIGURATION),
        *("--accelerator-config", options["accelerator_config"]),
        *("--system-config", options["system_config"]),
        *("--memory-mode", options["memory_mode"]),
        *("--optimise", options.get("optimise", "Performance")),
    ]
    if options.get("arena_cache_bytes"):
        arguments += ["--arena-cache-size", str(options["arena_cache_bytes"])]
    vela.main(arguments)
    made = outputs / "model_vela.tflite"
    if not made.is_file():
        raise RuntimeError("Vela ended without a file")
    after = operators(made)
    on_cpu = {name: count for name, count in after.items() if name != NPU}
    if not after.get(NPU):
        raise RuntimeError(
            f"Vela placed no operator on the NPU; all stay on the processor: {', '.join(on_cpu)}"
        )
    return {
        "files": {"model": made.name},
        "version": version("ethos-u-vela"),
        "operators": after,
        "npu_operators": sum(before.values()) - sum(on_cpu.values()),
        "cpu_operators": on_cpu,
        "estimates": estimates(outputs),
    }


def operators(file: Path) -> dict[str, int]:
    """How often each operator occurs in a LiteRT file, over all of its subgraphs."""
    names = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}
    model = Model.GetRootAsModel(file.read_bytes(), 0)
    codes = []
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        # Old files have their code in the deprecated field alone.
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = (code.CustomCode() or b"").decode(errors="replace")
        codes.append(
            custom if number == BuiltinOperator.CUSTOM else names.get(number, f"CODE_{number}")
        )
    counts: Counter[str] = Counter()
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        for at in range(graph.OperatorsLength()):
            counts[codes[graph.Operators(at).OpcodeIndex()]] += 1
    return dict(sorted(counts.items()))


def estimates(folder: Path) -> dict[str, float]:
    """Latency, cycles and memory of one inference, out of Vela's summary."""
    (summary,) = folder.glob("*_summary_*.csv")
    with summary.open(newline="") as file:
        (row,) = csv.DictReader(file)
    return {name: float(row[column]) * factor for column, (name, factor) in FIGURES.items()}


OPERATIONS = {"probe": probe, "finish": finish}
