"""A real cloud in one thread: in-memory registry, real keys and signatures, a clock that the test turns.

`Endpoint` speaks for a device as the gateway would: it calls the services, and verifies what they sign as
devices do.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import artifacts as samples

from cloud.blobs import LocalBlobs
from cloud.bus import Bus, Note
from cloud.context import Context
from cloud.gateway.blocks import BlockServer
from cloud.gateway.handler import Handler
from cloud.gateway.inbox import Incoming
from cloud.services import artifacts, attestors, ingest, releases, trust
from cloud.settings import Settings
from fleet.artifact import package
from fleet.registry import engine as registry
from fleet.registry.tables import Artifact, Device, DeviceKey, ModelVersion
from fleet.wire import codec, envelope
from fleet.wire.envelope import PrivateKey
from fleet.wire.messages import Birth, Desired, ModelStatus, Reported, RuntimeInfo
from fleet.wire.topics import Up, UpTopic
from ota.verify import trust as device_trust
from ota.verify.trust import Acceptance, TrustStore

START = 1_800_000_000.0
HARDWARE = "cpu-x86-64"
BOTH = [RuntimeInfo(name="litert", version="2"), RuntimeInfo(name="onnxruntime", version="1")]


@dataclass
class Clock:
    """Time that passes when the test says so."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Cloud:
    """A context with what tests need beside it."""

    context: Context
    clock: Clock
    notes: list[Note] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Its data directory."""
        return self.context.settings.data

    def publish_model(self, name: str = "digits", version: str = "1") -> None:
        row = ModelVersion(
            model=name, version=version, number=int(version), folder_sha256=f"{name}{version}",
            archive_sha256="z", created_at=self.clock.now, created_by="test",
        )  # fmt: skip
        with self.context.unit() as unit:
            unit.session.add(row)

    def add_artifact(
        self,
        file: str = "classify.onnx",
        *,
        result: dict[str, Any] | None = None,
        fallback: bool = False,
        host: str = "builder",
        **changes: Any,
    ) -> Artifact:
        """A real artifact in the registry, attested by a host; `changes` are fields of its manifest."""
        fields = {"model": "digits", "target": "onnx-cpu", "task": "digits"} | changes
        data = package.write(samples.attested(samples.classify(file, **fields), host=host))
        prepared = artifacts.prepare(
            self.context, data, fallbacks=[hashlib.sha256(data).hexdigest()] if fallback else []
        )
        with self.context.unit() as unit:
            return artifacts.enter(
                unit, prepared, model=fields["model"], version=fields.get("version", "1"),
                result=result or {},
            )  # fmt: skip

    def release(self, version: str = "1", *, model: str = "digits") -> dict[str, str]:
        """A signed release with an ONNX and a LiteRT variant; returns digest by target."""
        self.publish_model(model, version)
        onnx = self.add_artifact(model=model, version=version)
        litert = self.add_artifact(
            "classify.tflite", model=model, version=version, target="litert-cpu"
        )
        releases.create(self.context, model=model, version=version, by="test")
        return {"onnx-cpu": onnx.sha256, "litert-cpu": litert.sha256}


def make(folder: Path, *, url: str = "sqlite://") -> Cloud:
    """A cloud with its keys and repositories."""
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    numbers = itertools.count(1)
    engine = registry.connect(url)
    registry.migrate(engine)
    context = Context(
        settings=Settings(data=folder, database_url=url),
        engine=engine,
        blobs=LocalBlobs(folder / "blobs"),
        bus=Bus(),
        clock=clock,
        ids=lambda: f"id{next(numbers):014d}",
    )
    cloud = Cloud(context, clock)
    context.bus.listen(cloud.notes.append)
    trust.initialise(context)
    attestors.trust(folder, samples.host_pem(), host="builder")
    return cloud


@dataclass
class Endpoint:
    """One device: it verifies what it is sent, and reports what the test tells it to."""

    cloud: Cloud
    name: str
    store: TrustStore
    acceptance: Acceptance | None = None
    runtimes: list[RuntimeInfo] = field(default_factory=lambda: list(BOTH))
    hardware_class: str = HARDWARE
    boot_epoch: str = "epoch-1"
    seq: int = 0
    models: list[ModelStatus] = field(default_factory=list)
    key: ec.EllipticCurvePrivateKey | None = None

    @property
    def counter(self) -> int:
        return self.acceptance.counter if self.acceptance else 0

    @property
    def wanted(self) -> dict[str, str]:
        """Digest by model, as the last accepted assignment says."""
        return {t.model: t.sha256 for t in self.acceptance.targets} if self.acceptance else {}

    def connect(self, **changes: Any) -> Desired:
        """Send a birth and accept the answer, with all of the device's own checks."""
        fields = {
            "device": self.name, "boot_epoch": self.boot_epoch, "agent_version": "0",
            "hardware_class": self.hardware_class, "runtimes": self.runtimes, "models": self.models,
            "trust": device_trust.versions(self.store), "nonce": "n",
            "assignment_counter": self.counter,
            "assignment_sha256": device_trust.assignment_digest(self.store),
        }  # fmt: skip
        desired = ingest.birth(self.cloud.context, Birth(**(fields | changes)))
        self.accept(desired)
        return desired

    def fetch(self) -> None:
        """Take the current desired state, as when it is pushed."""
        self.accept(trust.desired_for(self.cloud.context, self.name))

    def accept(self, desired: Desired) -> None:
        self.acceptance = device_trust.accept(
            self.store,
            image=desired.image,
            director=desired.director,
            device=self.name,
            tenant="default",
            now=self.cloud.clock.now,
        )
        self.store = self.acceptance.store

    def report(self, state: str, *, model: str = "digits", **changes: Any) -> Reported:
        """Report a state of the update that the accepted assignment asks for."""
        message = self.message(state, model=model, **changes)
        ingest.reported(self.cloud.context, message)
        return message

    def message(self, state: str, *, model: str = "digits", **changes: Any) -> Reported:
        """The next report of a state."""
        assert self.acceptance is not None
        target = next((t for t in self.acceptance.targets if t.model == model), None)
        self.seq += 1
        fields = {
            "device": self.name, "boot_epoch": self.boot_epoch, "seq": self.seq, "model": model,
            "release": target.release if target else "", "sha256": target.sha256 if target else "",
            "assignment_counter": self.counter, "state": state, "at": self.cloud.clock.now,
            "terminal": state in {"committed", "measured", "failed", "incompatible", "refused"},
        }  # fmt: skip
        return Reported(**(fields | changes))

    def update(self) -> None:
        """Fetch what is desired, and commit it."""
        self.fetch()
        self.report("committed")

    def tell(self, state: str, *, by: PrivateKey | None = None, **changes: Any) -> bytes:
        """Report as `report` does, but sealed with the device's key and through the gateway's own handler."""
        return self.say(self.message(state, **changes), by=by)

    def say(self, message: Reported, *, by: PrivateKey | None = None) -> bytes:
        """Send a report, sealed with the device's key, or with another that a forger has."""
        key = by or self.key
        assert key is not None, "enrol it with keys=True"
        sealed = envelope.to_bytes(
            envelope.seal("reported", self.name, codec.to_json(message), envelope.signer(key),
                          counter=message.seq)
        )  # fmt: skip
        self.post(sealed)
        return sealed

    def post(self, sealed: bytes) -> None:
        """Hand an envelope to the gateway's handler, as the broker would."""
        handler = Handler(
            self.cloud.context, lambda *_: None, BlockServer(self.cloud.context, lambda *_: None)
        )  # type: ignore[arg-type,return-value]  # nothing is sent
        handler.handle(Incoming(UpTopic("default", self.name, Up.REPORTED), sealed))


def enrol(cloud: Cloud, name: str, *, keys: bool = False, **changes: Any) -> Endpoint:
    """A device in the registry, with the roots that an enrolment hands over."""
    with cloud.context.unit() as unit:
        unit.session.add(Device(id=name, tenant="default", created_at=unit.now))
        roots = trust.roots(unit.session)
    store = device_trust.initial(roots.image, roots.director, now=cloud.clock.now)
    endpoint = Endpoint(cloud, name, store, **changes)
    if keys:
        endpoint.key = ec.derive_private_key(sum(name.encode()) + 2, ec.SECP256R1())
        public = endpoint.key.public_key()
        with cloud.context.unit() as unit:
            unit.session.add(
                DeviceKey(
                    serial=f"serial-{name}", device=name, key_id=envelope.key_id(public),
                    public_key=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
                    certificate="", not_before=unit.now, not_after=unit.now + 1e6,
                    created_at=unit.now,
                )
            )  # fmt: skip
    return endpoint
