"""What devices measured: latency and memory per payload and hardware class; these replace a compiling host's estimates.

Rules:
- Figures come from what a device signed and nowhere else: its self-tests (single samples through the real
  runtime, as the compiler measures them), and its windows (requests of applications, queueing included).
- One device counts once, with its newest self-test; over devices the median stands, for memory the highest.
- The compiler is told of self-tests alone, because its own figures are of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from sqlmodel import Session

from cloud.context import Context
from cloud.services import drift
from fleet.errors import CallerError
from fleet.registry.repositories import Devices, Models, Telemetry
from fleet.registry.tables import Artifact, Report, TelemetryWindow
from fleet.telemetry import histogram
from fleet.telemetry.histogram import Histogram

FORMAT: Final = "outrider/figures/1"
MAX_WINDOWS: Final = 500
"""So many of the newest windows say what applications met."""

_Key = tuple[str, str]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of applications: upper edges of the merged histogram's bins."""

    latency_ms_p50: float
    latency_ms_p95: float
    requests: int
    devices: int


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What devices of one class measured for one payload.

    Attributes:
        latency_ms_p50, latency_ms_p95: of single samples in self-tests; None where no device told.
        peak_memory_mib: the highest of any device; None where no device told.
        devices: how many devices' self-tests it stands for.
        served: what applications met; None where no window is at hand.
    """

    hardware_class: str
    model: str
    recipe: str
    runtime: str
    payload_sha256: str
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    peak_memory_mib: float | None
    devices: int
    served: Served | None = None


def of_artifacts(session: Session, artifacts: Sequence[Artifact]) -> list[Figure]:
    """Figures of some artifacts by payload and class; those that nobody ran are left out."""
    by_sha = {artifact.sha256: artifact for artifact in artifacts}
    classes = {device.id: device.hardware_class for device in Devices(session).all()}
    telemetry = Telemetry(session)
    tests: dict[_Key, dict[str, Report]] = {}
    for report in telemetry.self_tests(list(by_sha)):  # oldest first: the newest of a device stays
        if classes.get(report.device) in by_sha[report.sha256].hardware_classes:
            key = (payload_of(by_sha[report.sha256]), classes[report.device])
            tests.setdefault(key, {})[report.device] = report
    windows: dict[_Key, list[TelemetryWindow]] = {}
    for row in telemetry.newest_windows_of_artifacts(list(by_sha), limit=MAX_WINDOWS):
        if row.device in classes:
            key = (payload_of(by_sha[row.sha256]), classes[row.device])
            windows.setdefault(key, []).append(row)
    about = {payload_of(artifact): artifact for artifact in artifacts}
    return [
        _figure(about[key[0]], key[1], tests.get(key, {}).values(), windows.get(key, []))
        for key in sorted({*tests, *windows})
    ]


def payload_of(artifact: Artifact) -> str:
    """Digest of what the runtime loads; the same payload may stand in several artifacts."""
    return str(artifact.manifest.get("payload", {}).get("sha256", ""))


def write(context: Context, model: str, file: Path) -> None:
    """Write `document` as a compile job takes it."""
    with context.read() as session:
        data = msgspec.json.encode(document(session, model))
    file.write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def document(session: Session, model: str) -> dict[str, Any]:
    """What devices' self-tests measured for any version of a model, in the form ``outrider/figures/1``.

    A row without both latencies is left out: the compiler could not compare it.
    """
    rows = []
    for each in of_artifacts(session, Models(session).artifacts(model)):
        row = {name: v for name, v in msgspec.to_builtins(each).items() if v is not None}
        row.pop("served", None)
        if {"latency_ms_p50", "latency_ms_p95"} <= set(row):
            rows.append(row)
    return {"format": FORMAT, "figures": rows}


def _figure(
    artifact: Artifact,
    hardware_class: str,
    tests: Iterable[Report],
    windows: Sequence[TelemetryWindow],
) -> Figure:
    told = list(tests)
    return Figure(
        hardware_class=hardware_class,
        model=artifact.model,
        recipe=artifact.recipe,
        runtime=artifact.runtime,
        payload_sha256=payload_of(artifact),
        latency_ms_p50=_median(told, "latency_ms_p50"),
        latency_ms_p95=_median(told, "latency_ms_p95"),
        peak_memory_mib=max(_values(told, "peak_memory_mib"), default=None),
        devices=len(told),
        served=_served(windows),
    )


def _values(reports: Iterable[Report], name: str) -> list[float]:
    found = (report.figures.get(name) for report in reports)
    return [float(value) for value in found if value is not None and value > 0]


def _median(reports: Iterable[Report], name: str) -> float | None:
    values = _values(reports, name)
    return median(values) if values else None


def _served(rows: Sequence[TelemetryWindow]) -> Served | None:
    latencies = [
        window.latency_ms
        for row in rows
        if (window := drift.decoded(row)) is not None and window.latency_ms is not None
    ]
    merged = reduce(_merge, latencies) if latencies else None
    p50, p95 = histogram.quantile(merged, 0.5), histogram.quantile(merged, 0.95)
    if merged is None or p50 is None or p95 is None:
        return None
    return Served(
        latency_ms_p50=p50,
        latency_ms_p95=p95,
        requests=merged.count,
        devices=len({row.device for row in rows}),
    )


def _merge(whole: Histogram, other: Histogram) -> Histogram:
    try:
        return histogram.merge(whole, other)
    except CallerError:  # over other edges: an agent of another version
        return whole
