"""Driver of the toolchain ``qnn``: context binaries for Qualcomm's Hexagon NPUs, in ONNX files.

Runs as a script of its own (see `compiler.toolchains.driver`), inside an environment that the user supplies.
Options of the provider and of the session: ONNX Runtime's page on the QNN execution provider.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

PROVIDER = "QNNExecutionProvider"


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Ask the runtime whether it was built with the provider."""
    if PROVIDER not in ort.get_available_providers():
        raise RuntimeError(
            f"this onnxruntime has no {PROVIDER}; install onnxruntime-qnn in its place"
        )
    return {"modules": ["onnxruntime", "onnx"], "version": ort.__version__}


def finish(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to ``model_ctx.onnx``; options ``htp_arch``, such as ``73``, and ``fp16``."""
    probe(inputs, outputs, options)
    made = outputs / "model_ctx.onnx"
    session = ort.SessionOptions()
    session.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session.add_session_config_entry("ep.context_enable", "1")
    session.add_session_config_entry("ep.context_embed_mode", "1")
    session.add_session_config_entry("ep.context_file_path", str(made))
    for name, shape in options.get("profiles", {}).items():
        fix(inputs / "model.onnx", name, shape[-1])
    ort.InferenceSession(
        str(inputs / "model.onnx"),
        session,
        providers=[
            (
                PROVIDER,
                {
                    "backend_path": "libQnnHtp.so",
                    "htp_arch": str(options["htp_arch"]),
                    "enable_htp_fp16_precision": "1" if options.get("fp16") else "0",
                },
            )
        ],
    )
    if not made.is_file():
        raise RuntimeError("the QNN provider took no part of the model: there is no context file")
    counts: dict[str, int] = {}
    for node in onnx.load(str(made)).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return {"files": {"model": made.name}, "version": ort.__version__, "operators": counts}


def fix(file: Path, name: str, shape: list[int]) -> None:
    """Give an input of the file one shape: the NPU takes no other."""
    model = onnx.load(str(file))
    (chosen,) = [one for one in model.graph.input if one.name == name]
    for dimension, size in zip(chosen.type.tensor_type.shape.dim, shape, strict=True):
        dimension.dim_value = size
    onnx.save(model, str(file))


OPERATIONS = {"probe": probe, "finish": finish}
