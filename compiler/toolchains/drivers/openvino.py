"""Driver of the toolchain ``openvino``: blobs for Intel's NPUs, GPUs and processors.

Runs as a script of its own (see `compiler.toolchains.driver`), inside an environment that the user supplies.
A blob is for the device and the version of OpenVINO that compiled it: OpenVINO's guide on importing models.
"""

from __future__ import annotations

from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import openvino


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Say which devices it finds here."""
    devices = list(openvino.Core().available_devices)
    return {"modules": ["openvino"], "version": openvino.__version__, "devices": devices}


def finish(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to ``model.blob``; option ``device``: ``NPU``, ``GPU`` or ``CPU``."""
    core = openvino.Core()
    model = core.read_model(str(inputs / "model.onnx"))
    shapes = {name: maximum for name, (_, _, maximum) in options.get("profiles", {}).items()}
    if shapes:
        model.reshape(shapes)
    compiled = core.compile_model(model, options["device"])
    stream = BytesIO()
    compiled.export_model(stream)
    (outputs / "model.blob").write_bytes(stream.getvalue())
    kinds = [
        node.get_rt_info()["layerType"].value for node in compiled.get_runtime_model().get_ops()
    ]
    counts = Counter(kind for kind in kinds if kind not in {"Const", "Input", "Output"})
    return {
        "files": {"model": "model.blob"},
        "version": openvino.__version__,
        "operators": dict(sorted(counts.items())),
        "inputs": [{"name": port.get_any_name()} for port in model.inputs],
        "outputs": [{"name": port.get_any_name()} for port in model.outputs],
    }


OPERATIONS = {"probe": probe, "finish": finish}
