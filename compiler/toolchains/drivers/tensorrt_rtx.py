"""Driver of the toolchain ``tensorrt-rtx``: engines ahead of time, with no GPU at hand.

Runs inside that toolchain's environment (see `compiler.toolchains.driver`), as a script of its own.

Rules:
- Precision is in the ONNX file (QDQ or casts); the network is strongly typed.
- Nothing here makes a `Runtime`: constructing one without a driver crashes the process.
- A build that fails returns None rather than raising; every result is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt_rtx as trt


class Log(trt.ILogger):  # type: ignore[misc] # the library has no types
    """Keeps the errors, so that a failure can say why; called from several threads."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by the library for each message."""
        if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
            self.errors.append(message)
        if severity != trt.ILogger.Severity.VERBOSE:
            print(severity, message)  # noqa: T201 - into the driver's log


def probe(_inputs: Path, _outputs: Path, _options: dict[str, Any]) -> dict[str, Any]:
    """Make a builder, which needs the libraries but no GPU."""
    builder = trt.Builder(Log())
    return {"modules": ["tensorrt_rtx"], "version": trt.__version__, "builder": bool(builder)}


def build(inputs: Path, outputs: Path, options: dict[str, Any]) -> dict[str, Any]:
    """``model.onnx`` to ``model.engine``.

    Options: ``compute_capabilities`` such as ``["SM89"]``, ``profiles`` with minimum, optimum and
    maximum shape per input that varies, and ``workspace_mib``.
    """
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse((inputs / "model.onnx").read_bytes()):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise RuntimeError(f"TensorRT cannot parse the model: {'; '.join(reasons[:3])}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mib"] << 20)
    capabilities = options["compute_capabilities"]
    config.num_compute_capabilities = len(capabilities)
    for index, name in enumerate(capabilities):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            raise RuntimeError(f"TensorRT refused the compute capability {name}")
    if options["profiles"]:
        add_profile(builder, config, options["profiles"])
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError(f"TensorRT built no engine: {'; '.join(log.errors[-3:]) or 'no reason'}")
    (outputs / "model.engine").write_bytes(bytes(engine))
    return {
        "files": {"model": "model.engine"},
        "version": trt.__version__,
        "compute_capabilities": capabilities,
        "inputs": tensors(network.get_input, network.num_inputs),
        "outputs": tensors(network.get_output, network.num_outputs),
        "layers": int(network.num_layers),
    }


def add_profile(builder: Any, config: Any, profiles: dict[str, list[list[int]]]) -> None:
    """One optimization profile over all inputs that vary."""
    profile = builder.create_optimization_profile()
    for name, (minimum, optimum, maximum) in profiles.items():
        profile.set_shape(name, minimum, optimum, maximum)
    if config.add_optimization_profile(profile) < 0:
        raise RuntimeError(f"TensorRT refused the optimization profile {profiles}")


def tensors(get: Any, count: int) -> list[dict[str, Any]]:
    """Names, dtypes and shapes of the network's inputs or outputs."""
    found = [get(index) for index in range(count)]
    return [
        {"name": t.name, "dtype": str(t.dtype).rsplit(".", 1)[-1].lower(), "shape": list(t.shape)}
        for t in found
    ]


OPERATIONS = {"probe": probe, "build": build}
