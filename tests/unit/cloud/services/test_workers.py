"""Workers in the registry: who is waited for, and what the cloud's own worker takes."""

from __future__ import annotations

import pytest
from support.clouds import Cloud

from cloud.errors import InputError
from cloud.services import jobs, workers
from cloud.services.workers import OWN_NAME, Introduction
from cloud.work import routing
from cloud.worker.local_desk import LocalDesk
from compiler.targets import catalog


def join(cloud: Cloud, name: str, *toolchains: str, **changes: object) -> None:
    fields = {"session": "", "host": {}, "version": "1"} | changes
    given = Introduction(name=name, toolchains=list(toolchains), **fields)  # type: ignore[arg-type]
    with cloud.context.unit() as unit:
        workers.introduce(unit, given, ids=cloud.context.ids, token="", by="ann")


def test_the_clouds_own_worker_takes_what_it_has_and_what_nobody_else_does(cloud: Cloud) -> None:
    cloud.publish_model()
    desk = LocalDesk(cloud.context, lambda: ["onnx"])
    assert desk.toolchains() == (), "nothing waits"
    jobs.submit(
        cloud.context,
        model="digits",
        version="1",
        targets=["onnx-cpu", "cpu-arm64", "rtx-ada"],
        by="ann",
    )
    assert desk.toolchains() == ["litert", "onnx", "tensorrt-rtx"]
    join(cloud, "gpu-box", "tensorrt-rtx", "onnx")
    assert desk.toolchains() == ["litert", "onnx"], "the GPU's work waits for who has one"
    cloud.clock.now += workers.KNOWN_S + 1
    assert desk.toolchains() == ["litert", "onnx", "tensorrt-rtx"], "but not for ever"
    join(cloud, "gpu-box", "tensorrt-rtx")
    workers.forget(cloud.context, "gpu-box", by="ann")
    assert "tensorrt-rtx" in desk.toolchains()
    join(cloud, OWN_NAME, "onnx")
    assert "onnx" in desk.toolchains(), "it does not wait for itself"


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "a.b"}, {"name": ""}, {"name": "x" * 65}, {"toolchains": ["on nx"]},
        {"toolchains": ["onnx"] * 65}, {"host": {str(i): i for i in range(33)}},
    ],
)  # fmt: skip
def test_a_worker_that_cannot_be_is_refused(cloud: Cloud, bad: dict[str, object]) -> None:
    fields = {"name": "ok", "toolchains": ["onnx"], "host": {}, "session": "", "version": ""} | bad
    with pytest.raises(InputError, match="expected"), cloud.context.unit() as unit:
        workers.introduce(
            unit,
            Introduction(**fields),
            ids=cloud.context.ids,
            token="",
            by="ann",  # type: ignore[arg-type]
        )


def test_every_target_is_led_by_a_toolchain_that_can_be_named() -> None:
    for target in catalog.names():
        assert routing.cut([target]) == {routing.leading(target): [target]}
    assert "onnx" in routing.companions(["tensorrt-rtx"]), "its int8 engines are quantized by it"
