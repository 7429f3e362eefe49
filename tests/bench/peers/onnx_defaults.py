"""Peer of the ONNX backend: ONNX Runtime's static quantization with its defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class Reader:
    """Calibration samples in the form that the quantizer asks for."""

    def __init__(self, path: Path) -> None:
        """Read an npz whose arrays are named ``INDEX:NAME``."""
        found: dict[int, dict[str, Any]] = {}
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                index, _, name = key.partition(":")
                found.setdefault(int(index), {})[name] = archive[key]
        self._next = iter([found[index] for index in sorted(found)])

    def get_next(self) -> dict[str, Any] | None:
        """The next feed, or None at the end."""
        return next(self._next, None)


def defaults(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` and ``samples.npz`` to a QDQ model, as the documentation shows: pre-process, quantize.

    Options: ``per_channel``, the one choice that its documentation asks the reader to make.
    """
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(
        str(inputs / "model.onnx"), str(outputs / "prepared.onnx"), skip_symbolic_shape=True
    )
    q.quantize_static(
        str(outputs / "prepared.onnx"),
        str(outputs / "quantized.onnx"),
        Reader(inputs / "samples.npz"),
        per_channel=options["per_channel"],
    )
    return {"files": {"model": "quantized.onnx"}}


OPERATIONS = {"defaults": defaults}
