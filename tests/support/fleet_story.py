"""A cloud with a small fleet for tests: real registry, signed releases, and what devices would send up.

The services are the product's own; only the network between devices and the cloud is left out.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import artifacts as packages

from cloud import context as contexts
from cloud import settings
from cloud.auth import tokens
from cloud.auth.roles import Role
from cloud.context import Context
from cloud.services import artifacts, attestors, ingest, releases, rollouts, trust
from cloud.services.cohorts import Cohort
from cloud.services.proving import Sealed
from fleet.artifact import package
from fleet.artifact.manifest import Feature, Metric
from fleet.drift import calibrate
from fleet.registry.repositories import Devices, Models, Proving, Rollouts
from fleet.registry.tables import Device, ModelVersion
from fleet.telemetry import histogram
from fleet.telemetry.window import LATENCY_EDGES_MS, DriftVerdict, Window
from fleet.wire import codec, envelope
from fleet.wire.messages import (
    Birth,
    Event,
    EventLevel,
    ModelStatus,
    Reported,
    RuntimeInfo,
    TelemetryBatch,
)
from ota.rollout.plan import RolloutSpec

MODEL = "digits"
STEPS = ("fetching", "staged", "self_testing", "activating", "probation", "committed")
VALUES = {"1": 0.9722, "2": 0.9778}


def _watched() -> Feature:
    """One watched input, calibrated as the compiler does it."""
    rng = np.random.default_rng(0)
    return calibrate.feature(
        "input:image:mean", rng.normal(0, 0.05, 600), rng=rng, alpha=0.001, features_n=1
    )


@dataclass
class Story:
    """The cloud, and the devices' side of the talk."""

    context: Context
    seq: dict[str, int] = field(default_factory=dict)
    variants: dict[tuple[str, str], str] = field(default_factory=dict)

    def copy_to(self, folder: Path) -> Story:
        """The same story in another folder; nobody may write while it is copied."""
        shutil.copytree(self.context.settings.data, folder)
        context = contexts.build(settings.load(folder))
        return Story(context, dict(self.seq), dict(self.variants))

    def token(self, role: Role, name: str = "") -> str:
        with self.context.unit() as unit:
            label = name or role.label
            return tokens.issue(unit, self.context.ids, name=label, role=role, by="test").secret

    def push(self, version: str) -> str:
        """A model version with two accepted artifacts and one unproven, signed as a release."""
        with self.context.unit() as unit:
            row = ModelVersion(
                model=MODEL,
                version=version,
                number=int(version),
                folder_sha256=version.rjust(64, "0"),
                archive_sha256=version.rjust(64, "0"),
                size_bytes=412_000,
                description={
                    "task": "image classification, 10 digits",
                    "licence": "BSD-3-Clause",
                },
                created_at=unit.now,
                created_by="engineer",
            )
            Models(unit.session).add(row)
        for target, file, recipe, loss, status in (
            ("litert-cpu", "classify.tflite", "static_wi8_ai8", 0.0028, "accepted"),
            ("onnx-cpu", "classify.onnx", "qdq_wi8_ai8", 0.0, "accepted"),
            ("rtx-ada", "identity.onnx", "fp16", 0.0, "unproven"),
        ):
            self._artifact(version, target, file, recipe, VALUES[version] - loss, status)
        return releases.create(self.context, model=MODEL, version=version, by="engineer").release.id

    def _artifact(
        self, version: str, target: str, file: str, recipe: str, value: float, status: str
    ) -> None:
        content = packages.classify(
            "classify.onnx" if file == "identity.onnx" else file,
            model=MODEL,
            version=version,
            target=target,
            recipe=recipe,
            status=status,
            hardware_classes=["rtx-ada"]
            if target == "rtx-ada"
            else ["cpu-x86-64"]
            if target == "onnx-cpu"
            else ["cpu-arm64"],
            metric=Metric(name="top1", value=value, reference=VALUES[version]),
            features=[_watched()],
            latency_ms_p50=0.41 if status == "accepted" else 0.0,
            latency_ms_p95=0.68 if status == "accepted" else 0.0,
        )
        prepared = artifacts.prepare(self.context, package.write(packages.attested(content)))
        with self.context.unit() as unit:
            row = artifacts.enter(unit, prepared, model=MODEL, version=version, result={})
            for hardware in row.hardware_classes:
                self.variants[f"{MODEL}@{version}", hardware] = row.sha256

    def enrol(self, device: str, *, hardware: str = "cpu-arm64", labels: dict[str, str]) -> None:
        with self.context.unit() as unit:
            row = Device(id=device, tenant="default", created_at=unit.now, labels=labels)
            Devices(unit.session).add(row)
        self.birth(device, hardware=hardware)

    def birth(
        self,
        device: str,
        *,
        hardware: str,
        models: list[ModelStatus] | None = None,
        onnxruntime: str = "1.23.2",
    ) -> None:
        message = Birth(
            device=device,
            boot_epoch=f"{device}-boot",
            agent_version="0.1.0",
            hardware_class=hardware,
            runtimes=[
                RuntimeInfo(name="litert", version="2.3.0"),
                RuntimeInfo(name="onnxruntime", version=onnxruntime),
            ],
            models=models or [],
            trust={"image/root.json": 1},
            nonce="nonce",
        )
        ingest.birth(self.context, message)

    def rollout(self, release: str, devices: list[str], *, waves: list[float]) -> str:
        spec = RolloutSpec(waves=waves, soak_s=0.0)
        return rollouts.create(
            self.context,
            release=release,
            cohort=Cohort(devices=devices),
            spec=spec,
            start=True,
            by="operator",
        )

    def report(
        self, device: str, release: str, state: str, *, progress: float = 0.0, error: str = ""
    ) -> None:
        """What a device says of its update, under the assignment that it holds."""
        terminal = state in ("committed", "failed", "refused", "incompatible")
        with self.context.read() as session:
            row = Devices(session).get(device)
            hardware = row.hardware_class
        message = Reported(
            device=device,
            boot_epoch=f"{device}-boot",
            seq=self._next(device),
            model=MODEL,
            release=release,
            sha256=self.variants[release, hardware],
            assignment_counter=self._counter(device),
            state=state,
            at=self.context.clock(),
            terminal=terminal,
            progress=progress,
            error_code=error,
        )
        ingest.reported(self.context, message)

    def measure(self, device: str, **figures: float) -> None:
        """What a proving device signs of the candidate that it has on trial."""
        with self.context.read() as session:
            trial = Proving(session).running_on(device)
        assert trial is not None
        assert trial.release is not None
        good = {"golden_cosine_min": 0.99998, "golden_max_abs": 0.0, "latency_ms_p50": 0.21,
                "latency_ms_p95": 0.34, "peak_memory_mib": 412.0}  # fmt: skip
        message = Reported(
            device=device, boot_epoch=f"{device}-boot", seq=self._next(device), model=MODEL,
            release=trial.release, sha256=trial.artifact, assignment_counter=trial.counter,
            state="measured", at=self.context.clock(), terminal=True, figures={**good, **figures},
            facts={"runtime": "onnxruntime", "runtime_version": "1.23.2"},
        )  # fmt: skip
        key = ec.derive_private_key(11, ec.SECP256R1())
        sealed = envelope.seal(
            "reported", device, codec.to_json(message), envelope.signer(key), counter=message.seq
        )
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ingest.reported(self.context, message, Sealed(envelope.to_bytes(sealed), public))

    def update(self, device: str, release: str, *, until: str = "committed") -> None:
        """Walk a device through its update."""
        for state in STEPS[: STEPS.index(until) + 1]:
            self.report(device, release, state, progress=1.0 if state == "fetching" else 0.0)

    def say(self, device: str, text: str, level: EventLevel = EventLevel.INFO) -> None:
        message = Event(
            device=device,
            boot_epoch=f"{device}-boot",
            seq=self._next(device),
            at=self.context.clock(),
            code="test",
            text=text,
            level=level,
            model=MODEL,
        )
        ingest.event(self.context, message)

    def window(self, device: str, release: str, *, ended: float, score: float, seed: int) -> None:
        """One window of telemetry that ended at `ended`."""
        rng = np.random.default_rng(seed)
        count = int(rng.integers(110, 150))
        with self.context.read() as session:
            hardware = Devices(session).get(device).hardware_class
            artifact = Models(session).find_artifact(self.variants[release, hardware])
        assert artifact is not None
        edges = tuple(artifact.manifest["features"][0]["reference"]["edges"])
        shift = 0.05 * max(0.0, score - 0.6)
        window = Window(
            boot_epoch=f"{device}-boot",
            seq=self._next(device),
            model=MODEL,
            release=release,
            sha256=artifact.sha256,
            started=ended - 10.0,
            ended=ended,
            inferences=count,
            features={"input:image:mean": histogram.of(edges, rng.normal(shift, 0.05, count))},
            latency_ms=histogram.of(LATENCY_EDGES_MS, rng.gamma(6.0, 0.08, count)),
            drift=DriftVerdict(changed=score > 1, score=score, feature="input:image:mean"),
        )
        ingest.telemetry(self.context, TelemetryBatch(device=device, windows=[window]))

    def _next(self, device: str) -> int:
        self.seq[device] = self.seq.get(device, 0) + 1
        return self.seq[device]

    def _counter(self, device: str) -> int:
        with self.context.read() as session:
            found = [
                member.counter
                for rollout in Rollouts(session).all()
                for member in Rollouts(session).members(rollout.id)
                if member.device == device
            ]
        return max(found, default=0)


def begin(folder: Path) -> Story:
    """A cloud in an empty folder, its repositories signed."""
    folder.mkdir(parents=True, exist_ok=True)
    context = contexts.build(settings.load(folder))
    trust.initialise(context)
    attestors.trust(folder, packages.host_pem(), host="builder")
    return Story(context)


def small_fleet(story: Story) -> list[str]:
    """Two releases, five devices, one of them drifting; the first release runs everywhere."""
    releases_made = [story.push("1"), story.push("2")]
    sites = ("north", "north", "south", "south", "harbour")
    devices = [f"camera-{number}" for number in range(1, 6)]
    for index, (device, site) in enumerate(zip(devices, sites, strict=True)):
        hardware = "cpu-x86-64" if index == 4 else "cpu-arm64"
        story.enrol(device, hardware=hardware, labels={"site": site})
    story.rollout(releases_made[0], devices, waves=[100.0])
    now = story.context.clock()
    for index, device in enumerate(devices):
        story.update(device, releases_made[0])
        story.say(device, f"{releases_made[0]} is committed")
        for number in range(24):
            drifting = device == "camera-3" and number > 14
            rng = np.random.default_rng(100 * index + number)
            score = float(0.35 + 0.25 * rng.random() + (0.12 * (number - 14) if drifting else 0.0))
            story.window(
                device,
                releases_made[0],
                ended=now - 240 + 10 * number,
                score=round(score, 3),
                seed=100 * index + number,
            )
    story.say("camera-3", "inputs have changed: input:image:mean", EventLevel.WARNING)
    return releases_made


def state_of(story: Story, rollout: str) -> str:
    """The rollout's state in the registry."""
    with story.context.read() as session:
        return Rollouts(session).get(rollout).state


__all__ = ["MODEL", "STEPS", "Story", "begin", "small_fleet", "state_of"]
