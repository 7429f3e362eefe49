"""What devices measured, per payload and hardware class, and as a compile job takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support import clouds
from support.clouds import Cloud, Endpoint

from cloud.services import figures, ingest, trust
from compiler.service import figures as compiler_figures
from fleet.registry.repositories import Models, Trust
from fleet.registry.tables import DesiredModel
from fleet.telemetry import histogram
from fleet.telemetry.window import LATENCY_EDGES_MS, Window
from fleet.wire.messages import TelemetryBatch


def given(cloud: Cloud, device: Endpoint, sha256: str) -> None:
    """Assign an artifact of digits@1."""
    with cloud.context.unit() as unit:
        Trust(unit.session).set_desired(
            DesiredModel(device=device.name, model="digits", release="digits@1", artifact=sha256, updated_at=0.0)
        )  # fmt: skip
        trust.assign(unit, cloud.context.settings, device.name)
    device.fetch()


def found(cloud: Cloud) -> list[figures.Figure]:
    with cloud.context.read() as session:
        return figures.of_artifacts(session, Models(session).artifacts("digits"))


def self_tested(device: Endpoint, p50: float, p95: float, memory: float) -> None:
    measured = {"latency_ms_p50": p50, "latency_ms_p95": p95, "peak_memory_mib": memory}
    device.report("activating", figures=measured)


def test_the_median_over_devices_with_each_devices_newest_self_test(
    cloud: Cloud, tmp_path: Path
) -> None:
    sha256 = cloud.release()["onnx-cpu"]
    assert found(cloud) == []
    for number, p50 in enumerate((1.0, 2.0, 9.0)):
        device = clouds.enrol(cloud, f"cam-{number}")
        device.connect()
        given(cloud, device, sha256)
        self_tested(device, 77.0, 88.0, 10.0 + number)
        cloud.clock.now += 1
        self_tested(device, p50, p50 * 2, 10.0 + number)
        device.report("committed", figures={"good_answers": 3})
    (figure,) = found(cloud)
    assert (figure.hardware_class, figure.devices) == (clouds.HARDWARE, 3)
    assert (figure.latency_ms_p50, figure.latency_ms_p95) == (2.0, 4.0)
    assert figure.peak_memory_mib == 12.0
    assert figure.served is None
    file = tmp_path / "figures.json"
    figures.write(cloud.context, "digits", file)
    (row,) = compiler_figures.load(file).figures
    assert (row.latency_ms_p50, row.devices, row.payload_sha256) == (2.0, 3, figure.payload_sha256)


def test_a_class_that_the_artifact_is_not_for_says_nothing(cloud: Cloud) -> None:
    sha256 = cloud.release()["onnx-cpu"]
    device = clouds.enrol(cloud, "cam-1", hardware_class="rtx-ada")
    device.connect()
    given(cloud, device, sha256)
    self_tested(device, 1.0, 2.0, 3.0)
    assert found(cloud) == []


def test_windows_say_what_applications_met(cloud: Cloud, tmp_path: Path) -> None:
    sha256 = cloud.release()["onnx-cpu"]
    device = clouds.enrol(cloud, "cam-1")
    device.connect()
    rng = np.random.default_rng(1)
    windows = [
        Window(
            boot_epoch="e", seq=seq, model="digits", release="1", sha256=sha256, started=0.0,
            ended=float(seq), inferences=200, features={},
            latency_ms=histogram.of(LATENCY_EDGES_MS, rng.gamma(4.0, 0.5, 200)),
        )
        for seq in (1, 2)
    ]  # fmt: skip
    ingest.telemetry(cloud.context, TelemetryBatch(device="cam-1", windows=windows))
    (figure,) = found(cloud)
    assert figure.served is not None
    assert (figure.served.requests, figure.served.devices, figure.devices) == (400, 1, 0)
    assert 1.0 < figure.served.latency_ms_p50 < figure.served.latency_ms_p95
    figures.write(cloud.context, "digits", tmp_path / "f.json")
    assert (
        json.loads((tmp_path / "f.json").read_text())["figures"] == []
    )  # no self-test to compare with
