"""Every name of TensorRT that the driver and the runtime use exists in 10.3 and in 11."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from support.tensorrt import VERSIONS, names_of

import agent.runtimes

pytestmark = pytest.mark.agent

FOLDER = Path(agent.runtimes.__file__).parent
FILES = ("tensorrt_driver.py", "tensorrt.py")
GONE_IN_11 = {
    "platform_has_fast_fp16", "platform_has_fast_int8", "int8_calibrator", "set_dynamic_range", "set_output_type",
    "quantization_flags", "EXPLICIT_BATCH", "FP16", "INT8", "BF16", "OBEY_PRECISION_CONSTRAINTS",
    "create_execution_context_without_device_memory", "supports_model",
}  # fmt: skip
GONE_IN_10 = {
    "build_engine", "execute_async_v2", "max_workspace_size", "max_batch_size", "get_binding_index",
    "get_binding_shape", "num_bindings", "set_binding_shape",
}  # fmt: skip
RTX_ONLY = {"set_compute_capability", "num_compute_capabilities", "ComputeCapability"}
"""TensorRT-RTX alone builds ahead of time; the driver asks whether they are there."""

RECEIVERS = {
    "trt": "module", "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser",
    "config": "IBuilderConfig", "profile": "IOptimizationProfile", "engine": "ICudaEngine", "runtime": "Runtime",
    "context": "IExecutionContext", "inspector": "EngineInspector", "layer": "ILayer", "cache": "ITimingCache",
    "e": "ParserError", "t": "ITensor",
}  # fmt: skip
"""What the local names in both files stand for; the test holds that they are used for nothing else."""


def uses(file: str) -> set[tuple[str, str]]:
    """``(class, name)`` of each attribute that is read or set on something of TensorRT's."""
    found = set()
    for node in ast.walk(ast.parse((FOLDER / file).read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        value = node.value
        name = value.id if isinstance(value, ast.Name) else ""
        if isinstance(value, ast.Attribute):
            # `trt.DataType.FLOAT`, and `self._engine.name` in the runtime
            of_trt = isinstance(value.value, ast.Name) and value.value.id == "trt"
            if of_trt and not node.attr.startswith("__"):
                found.add((value.attr, node.attr))
            name = value.attr.lstrip("_")
        if (
            name in RECEIVERS
            and not node.attr.startswith("__")
            and not (name == "engine" and node.attr in {"find", "is_file"})
        ):
            found.add((RECEIVERS[name], node.attr))
    return found


USED = sorted({use for file in FILES for use in uses(file)})


def test_enough_is_found_to_mean_something() -> None:
    classes = {kind for kind, _ in USED}
    assert {"module", "Builder", "IBuilderConfig", "ICudaEngine", "IExecutionContext"} <= classes
    assert ("IExecutionContext", "execute_async_v3") in USED
    assert ("MemoryPoolType", "WORKSPACE") in USED
    assert len(USED) > 60


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_exists(version: str) -> None:
    known = names_of(version)
    unknown = [
        (kind, name)
        for kind, name in USED
        if name not in RTX_ONLY and name not in ("__name__", "__version__")
        and name not in (known["module"] if kind == "module" else known["classes"].get(kind, []))
    ]  # fmt: skip
    assert unknown == []


def test_nothing_is_used_that_is_gone() -> None:
    used = {name for _, name in USED}
    assert not used & (GONE_IN_10 | GONE_IN_11)
    everywhere = [
        set(names_of(v)["module"]).union(*names_of(v)["classes"].values()) for v in VERSIONS
    ]
    for name in GONE_IN_10:
        assert not any(name in found for found in everywhere), name
    gone = {"platform_has_fast_fp16", "int8_calibrator", "set_dynamic_range", "EXPLICIT_BATCH"}
    assert gone <= everywhere[0]
    assert not gone & everywhere[1]


def test_progress_monitor_and_logger_are_called_by_these_names() -> None:
    for version in VERSIONS:
        classes = names_of(version)["classes"]
        assert {"phase_start", "step_complete", "phase_finish"} == set(classes["IProgressMonitor"])
        assert "log" in classes["ILogger"]
