"""Driver of the toolchain ``rknn``: ONNX models for Rockchip's NPUs.

Runs as a script of its own (see `compiler.toolchains.driver`), inside an environment that the user supplies.
Precision is in the ONNX file: QDQ for int8, else the NPU's float16. Calls and their statuses: Rockchip's
RKNN SDK API reference for rknn-toolkit2.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

from rknn.api import RKNN


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Make the toolkit's object, which needs its libraries."""
    RKNN().release()
    return {"modules": ["rknn"], "version": version("rknn-toolkit2")}


def finish(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to ``model.rknn``; option ``platform``, such as ``rk3588``."""
    made = outputs / "model.rknn"
    toolkit = RKNN(verbose=False)
    shapes = {name: maximum for name, (_, _, maximum) in options.get("profiles", {}).items()}
    fixed = {"inputs": list(shapes), "input_size_list": list(shapes.values())} if shapes else {}
    try:
        check("config", toolkit.config(target_platform=options["platform"]))
        check("load_onnx", toolkit.load_onnx(model=str(inputs / "model.onnx"), **fixed))
        check("build", toolkit.build(do_quantization=False))
        check("export_rknn", toolkit.export_rknn(str(made)))
    finally:
        toolkit.release()
    return {"files": {"model": made.name}, "version": version("rknn-toolkit2")}


def check(step: str, status: int | None) -> None:
    """The toolkit says how a step went by a number; only 0, or none, is well."""
    if status:
        raise RuntimeError(f"rknn-toolkit2: {step} ended with {status}; its log says why")


OPERATIONS = {"probe": probe, "finish": finish}
