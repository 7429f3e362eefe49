"""The operator of a simulated fleet: releases versions, rolls them out, answers what goes wrong.

Rules:
- Everything goes through the real services.
- Some releases are bad on some devices; their rollout pauses by its gate, and the operator rolls it back,
  or resumes it now and then.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field

import numpy as np

from cloud.services import artifacts, releases, rollouts
from cloud.services.cohorts import Cohort
from fleet.artifact import manifest as manifests
from fleet.artifact import package
from fleet.artifact.manifest import (
    Feature,
    InputSpec,
    Manifest,
    Metric,
    Payload,
    TensorSpec,
    Tolerance,
)
from fleet.artifact.package import Package
from fleet.drift import calibrate
from fleet.errors import OutriderError
from fleet.registry.repositories import Models, Rollouts
from fleet.registry.tables import ModelVersion
from ota.rollout.plan import RolloutSpec
from simulator.virtual.backend import MODELS, Backend
from simulator.virtual.crew import Trouble
from simulator.virtual.device import RUNTIMES
from simulator.virtual.schedule import Schedule

CLASSES = ("cpu-arm64", "cpu-x86-64")
FIRST_S = 60.0
LOOK_S = 10.0
PATIENCE_S = 1800.0
BAD_RELEASES = 0.4
PAYLOAD_BYTES = (20_000, 400_000)
KEPT_BACKBONES = 0.75


@dataclass
class _Course:
    """Where one model's rollouts stand.

    Attributes:
        next_at: when the next version comes.
        rollout: the newest rollout's id, empty before the first.
        began: when it was started.
    """

    next_at: float
    version: int = 0
    rollout: str = ""
    began: float = 0.0


@dataclass
class Operator:
    """Runs the fleet.

    Attributes:
        troubles: each device's table of bad artifacts, which the devices share.
        interval_s: mean time between two releases of a model.
        quiet: release nothing new any more.
    """

    backend: Backend
    schedule: Schedule
    rng: random.Random
    troubles: dict[str, dict[str, Trouble]]
    interval_s: float
    quiet: bool = False
    rollouts_n: int = 0
    orders: list[str] = field(default_factory=list)
    _courses: dict[str, _Course] = field(default_factory=dict)
    _payloads: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def start(self) -> None:
        """Begin."""
        for model in MODELS:
            self._courses[model] = _Course(FIRST_S + self.rng.uniform(0.0, 120.0))
        self.schedule.every(LOOK_S, self._look)

    def settled(self) -> bool:
        """Whether no rollout is under way."""
        return all(self._state(course) not in rollouts.OPEN for course in self._courses.values())

    def _look(self) -> None:
        for model, course in self._courses.items():
            state = self._state(course)
            if state == "paused":
                resumes = not self.quiet and self.rng.random() < 0.2
                self._order(course, "resume" if resumes else "rollback")
            elif state in rollouts.OPEN and self.schedule.now > course.began + PATIENCE_S:
                self._order(course, "abort")
            elif state in rollouts.OPEN or self.quiet or self.schedule.now < course.next_at:
                continue
            else:
                self._release(model, course)

    def _state(self, course: _Course) -> str:
        if not course.rollout:
            return ""
        with self.backend.context.read() as session:
            return str(Rollouts(session).get(course.rollout).state)

    def _order(self, course: _Course, name: str) -> None:
        rollouts.order(self.backend.context, course.rollout, name, by="sim")
        self.orders.append(name)

    def _release(self, model: str, course: _Course) -> None:
        context = self.backend.context
        version = str(course.version + 1)
        self._compile(model, version)
        created = releases.create(context, model=model, version=version, by="sim")
        course.version += 1
        spec = RolloutSpec(
            waves=[34.0, 100.0],
            max_failures=0,
            soak_s=30.0,
            wave_timeout_s=600.0,
            offline_grace_s=60.0,
        )
        course.next_at = self.schedule.now + self.interval_s * self.rng.uniform(0.5, 1.5)
        try:
            course.rollout = rollouts.create(
                context,
                release=created.release.id,
                cohort=Cohort(),
                spec=spec,
                start=True,
                by="sim",
            )
        except OutriderError as error:  # no device has connected yet
            self.orders.append(f"postponed: {error.code}")
            course.next_at = self.schedule.now + LOOK_S
            return
        course.began = self.schedule.now
        self.rollouts_n += 1

    def _compile(self, model: str, version: str) -> None:
        """Put a version with one artifact per hardware class into the registry."""
        context = self.backend.context
        bad_on = [
            device
            for device in sorted(self.troubles)
            if version != "1" and self.rng.random() < 1.5 / len(self.troubles)
        ]
        bad = self.rng.random() < BAD_RELEASES
        files = [self._artifact(model, version, target) for target in CLASSES]
        prepared = [artifacts.prepare(context, data) for data in files]
        with context.unit() as unit:
            Models(unit.session).add(_version(model, version, unit.now))
            unit.session.flush()
            for each in prepared:
                artifacts.enter(unit, each, model=model, version=version, result={})
                for device in bad_on if bad else []:
                    kind = self.rng.choice(list(Trouble))
                    self.troubles[device][each.sha256] = kind

    def _artifact(self, model: str, version: str, target: str) -> bytes:
        payload = self._payload(model, target)
        image = InputSpec(name="x", dtype="float32", shape=[None, 4])
        scores = TensorSpec(name="y", dtype="float32", shape=[None, 2])
        manifest = Manifest(
            format=manifests.FORMAT,
            model=model,
            version=version,
            task="simulated",
            target=target,
            hardware_classes=[target],
            runtime=RUNTIMES[int(version) % len(RUNTIMES)],
            runtime_version="1",
            recipe="fp32",
            source_sha256=hashlib.sha256(f"{model}@{version}".encode()).hexdigest(),
            inputs=[image],
            outputs=[scores],
            payload=Payload(
                member="model.onnx",
                sha256=hashlib.sha256(payload).hexdigest(),
                size_bytes=len(payload),
            ),
            tolerance=Tolerance(cosine_min=0.99, max_abs=0.1),
            metric=Metric(name="top1", value=0.9, reference=0.9),
            status="accepted",
            features=[self._feature()],
        )
        content = Package(manifest=manifest, payload=payload, golden_inputs={}, golden_outputs={})
        return package.write(self.backend.attested(content))

    def _payload(self, model: str, target: str) -> bytes:
        """The version before with another end, as a new head on an old backbone; sometimes all new."""
        before = self._payloads.get((model, target), b"")
        kept = before[: len(before) * 3 // 4] if self.rng.random() < KEPT_BACKBONES else b""
        payload = kept + self.rng.randbytes(self.rng.randint(*PAYLOAD_BYTES) // (4 if kept else 1))
        self._payloads[model, target] = payload
        return payload

    def _feature(self) -> Feature:
        draws = np.random.default_rng(self.rng.getrandbits(64))
        return calibrate.feature(
            "input:x:mean", draws.normal(size=256), rng=draws, windows_n=(16, 64, 256)
        )


def _version(model: str, version: str, now: float) -> ModelVersion:
    digest = hashlib.sha256(f"{model}@{version}".encode()).hexdigest()
    return ModelVersion(
        model=model,
        version=version,
        number=int(version),
        folder_sha256=digest,
        archive_sha256=digest,
        created_at=now,
        created_by="sim",
    )
