"""Every name of TensorRT that the driver and the runtime use exists in 10.3 and in 11."""

from __future__ import annotations

import pytest
from support.tensorrt import VERSIONS, names_of
from support.tensorrt_names import USED

pytestmark = pytest.mark.agent

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
