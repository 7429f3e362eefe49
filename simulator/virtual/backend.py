"""The cloud in virtual time: the real services and the gateway's real handler over an in-memory registry."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.adapters.identity import Broker, Enrolment
from cloud.auth import ca
from cloud.blobs import LocalBlobs
from cloud.bus import Bus, Note
from cloud.context import Context
from cloud.gateway.blocks import BlockServer
from cloud.gateway.broadcasts import OVER
from cloud.gateway.handler import Handler
from cloud.gateway.inbox import Incoming
from cloud.gateway.pushes import Pushes
from cloud.services import attestors, enrolment, proving, rollouts, trust, ways
from cloud.services.enrolment import Issuer
from cloud.settings import Settings
from compiler.provenance import attest, predicate
from compiler.provenance.predicate import GateFigures, Provenance
from fleet.artifact.package import Package
from fleet.registry import engine as registry
from fleet.wire import codec, envelope, topics
from fleet.wire.messages import BlocksWanted, Refusal
from fleet.wire.topics import Down, UpTopic
from ota.signing import keys
from simulator.errors import ViolationError
from simulator.virtual.network import Network
from simulator.virtual.schedule import Schedule

TENANT = "default"
TICK_S = 2.0
FLUSH_S = 0.05
BANDWIDTH_BYTES_S = 100_000
MODELS = ("alpha", "beta")


class _Blocks(BlockServer):
    """The gateway's block server without its thread: blocks leave at the pace of a thin link."""

    def __init__(self, context: Context, send: Callable[[UpTopic, bytes, float], None]) -> None:
        super().__init__(context, lambda *_: None)  # type: ignore[arg-type]  # never called: `ask` sends
        self._send_at = send

    def ask(self, topic: UpTopic, wanted: BlocksWanted) -> Refusal | None:
        """Send what is asked for, block by block."""
        blocks = self.open(topic, wanted)
        if wanted.listening and not isinstance(blocks, Refusal):
            return Refusal(id=wanted.id, code=OVER, text="nobody broadcasts here", retryable=True)
        if isinstance(blocks, Refusal):
            return blocks
        delay_s = 0.0
        for block in blocks:
            payload = codec.to_msgpack(block)
            delay_s += len(payload) / BANDWIDTH_BYTES_S
            self._send_at(topic, payload, delay_s)
        return None


class Backend:
    """The cloud.

    Args:
        folder: for keys and blobs.
        schedule: virtual time.
        rng: ids and keys come from it.
        epoch: Unix time at which the world begins.
    """

    def __init__(
        self, folder: Path, schedule: Schedule, rng: random.Random, *, epoch: float
    ) -> None:
        folder.mkdir(parents=True)
        self._schedule, self._rng = schedule, rng
        engine = registry.connect("sqlite://")
        registry.migrate(engine)
        self.context = Context(
            settings=Settings(data=folder, tenant=TENANT),
            engine=engine,
            blobs=LocalBlobs(folder / "blobs"),
            bus=Bus(),
            clock=lambda: epoch + schedule.now,
            ids=lambda: rng.randbytes(8).hex(),
        )
        self._builder = Ed25519PrivateKey.from_private_bytes(b"the simulated compiling host key")
        self._make_keys()
        trust.initialise(self.context)
        self._authority = ca.create(now=epoch)
        self.assigned: list[str] = []
        self._network: Network | None = None
        self._flushing = False
        self._pushing = False
        self._released = False

    def start(self, network: Network) -> None:
        """Begin to hear devices and to tell them what to run."""
        self._network = network
        self._handler = Handler(self.context, self._send, _Blocks(self.context, self._send_block))
        self._pushes = Pushes(self.context, self._send, lambda: True)
        self._pushes.listen()
        self.context.bus.listen(self._hear)
        self._schedule.every(TICK_S, self._tick)

    def close(self) -> None:
        """Let the registry go."""
        self.context.engine.dispose()

    # --- devices ----------------------------------------------------------------------------------

    def enrol(self, device: str, key: ec.EllipticCurvePrivateKey, hardware_class: str) -> Enrolment:
        """Admit a device, by claim and certificate request."""
        context = self.context
        with context.unit() as unit:
            claim = enrolment.create_claim(
                unit,
                device=device,
                tenant=TENANT,
                labels={},
                expires_s=3600.0,
                actor="sim",
                ids=context.ids,
            )
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, device)])
        request = x509.CertificateSigningRequestBuilder().subject_name(name)
        csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        with context.unit() as unit:
            enrolment.enrol(
                unit,
                Issuer(self._authority, context.settings.device_certificate_s),
                code=claim.code,
                csr_pem=csr,
                hardware_class=hardware_class,
            )
        with context.read() as session:
            roots = trust.roots(session)
        return Enrolment(
            device=device,
            tenant=TENANT,
            hardware_class=hardware_class,
            broker=Broker(host="sim", port=1),
            image_root=roots.image,
            director_root=roots.director,
            now=context.clock(),
            url="https://sim",
            ca_sha256=self._authority.sha256(),
        )

    def receive(self, device: str, kind: str, payload: bytes) -> None:
        """A message arrived at the gateway."""
        topic = topics.parse_up(topics.up(TENANT, device, topics.Up(kind)))
        self._handler.handle(Incoming(topic, payload))
        if self._handler.unacknowledged and not self._flushing:
            self._flushing = True
            self._schedule.after(self._rng.uniform(0.0, FLUSH_S), self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self._handler.flush()

    # --- what the cloud says ----------------------------------------------------------------------

    def _send(self, topic: UpTopic, kind: Down, payload: bytes) -> None:
        if self._network is not None:
            self._network.down(topic.device, kind.value, payload)

    def _send_block(self, topic: UpTopic, payload: bytes, delay_s: float) -> None:
        if self._network is not None:
            self._network.down(topic.device, Down.BLOB.value, payload, delay_s=delay_s)

    def _hear(self, note: Note) -> None:
        self._released = self._released or note.topic == "release"
        if note.topic != "desired":
            return
        self.assigned.append(str(note.data["device"]))
        if not self._pushing:
            self._pushing = True
            self._schedule.after(0.0, self._push)

    def _push(self) -> None:
        self._pushing = False
        self._pushes.step(self._schedule.now)

    def _tick(self) -> None:
        rollouts.tick(self.context)
        proving.tick(self.context)
        if self._released and ways.build_next(self.context) is None:
            self._released = False
        self._pushes.step(self._schedule.now)

    def attested(self, content: Package) -> Package:
        """The package as a compiling host that this cloud knows attests it."""
        manifest = content.manifest
        made = Provenance(
            asked=predicate.External(
                model=manifest.model,
                version=manifest.version,
                target=manifest.target,
                metric=manifest.metric.name,
                budget=0.0,
            ),
            recipe=predicate.Recipe(name=manifest.recipe),
            digests={"model": manifest.source_sha256},
            gates={"metric": GateFigures(passed=True, detail="simulated")},
        )
        return attest.attest(content, envelope.signer(self._builder), made)

    def _make_keys(self) -> None:
        def generate() -> Ed25519PrivateKey:
            return Ed25519PrivateKey.from_private_bytes(self._rng.randbytes(32))

        keys.create_keystore(self.context.settings.data, generate=generate)
        for model in MODELS:
            keys.create_release_key(self.context.settings.data, model, generate=generate)
        public = self._builder.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        attestors.trust(self.context.settings.data, public.decode(), host="builder")


class LogWatch(logging.Handler):
    """Turns what the gateway logs as wrong into a violation: here nobody forges or mangles."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.first: ViolationError | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first record."""
        if self.first is None:
            text = f"the gateway logged: {record.getMessage()}"
            cause = record.exc_info[1] if record.exc_info else None
            self.first = ViolationError(f"{text}: {cause!r}" if cause else text)
