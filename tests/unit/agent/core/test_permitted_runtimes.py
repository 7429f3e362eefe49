"""The configuration decides which runtimes the cloud may choose from, and which it should prefer."""

import pytest

from agent.core.birth import permitted
from fleet.wire.messages import RuntimeInfo

pytestmark = pytest.mark.agent

FOUND = [RuntimeInfo(name="litert", version="2"), RuntimeInfo(name="onnxruntime", version="1")]


@pytest.mark.parametrize(
    ("allowed", "seen"),
    [
        ([], [("litert", True), ("onnxruntime", True)]),
        (["onnxruntime", "litert"], [("onnxruntime", True), ("litert", True)]),
        (["onnxruntime"], [("onnxruntime", True), ("litert", False)]),
    ],
)
def test_order_and_permission(allowed, seen):
    runtimes = permitted(FOUND, allowed)
    assert [(r.name, r.available) for r in runtimes] == seen
    assert all(r.available or "configuration" in r.reason for r in runtimes)
