"""One device's real core in virtual time, with memory for a disk."""

from __future__ import annotations

import hashlib
import heapq
import itertools
from typing import Any

import msgspec
from support.virtual_cloud import DEVICE, KEY, TENANT, Cloud

from agent.adapters.identity import Identity
from agent.core import commands as cmd
from agent.core import events as ev
from agent.core.context import Settings
from agent.core.core import Core
from agent.core.records import Certificate, DeviceRecord, ModelRecord
from agent.core.states import TERMINAL
from agent.serving.port import Figures, SelfTest
from fleet.errors import OutriderError
from fleet.telemetry import histogram
from fleet.telemetry.window import LATENCY_EDGES_MS
from fleet.wire import envelope
from fleet.wire.messages import RuntimeInfo
from ota.transfer.serve import blocks_for
from ota.verify.trust import TrustStore


class PowerCutError(Exception):
    """The device lost its power."""


class Disk(msgspec.Struct):
    """What survives a power cut."""

    trust: TrustStore
    device: DeviceRecord = DeviceRecord()
    models: dict[str, ModelRecord] = {}
    slots: dict[str, dict[str, bytes]] = {}
    parts: dict[str, bytearray] = {}
    bitmaps: dict[str, tuple[bytes, bytes]] = {}
    rows: list[ev.Row] = []
    engines: dict[str, str] = {}
    positions: int = 0


class Device:
    """The core, its disk, its workers and its network.

    Attributes:
        disk_fails: code with which every persisting command is refused; empty for none.
        power: commands until the power is cut; None for never.
        traffic: whether applications ask the models.
        lose: of each n-th message down, one is lost; 0 for none.
        identity: key and certificate on a real disk; None for a key of its own and no certificate.
        wall: what the local clock shows at the next start.
        upgraded: whether the engines of before no longer fit.
        https: whether the cloud answers over HTTPS.
        listens: the blobs whose broadcast it hears.
        build_fails: code with which each build fails; empty for what its release does.
    """

    def __init__(
        self, cloud: Any, *, identity: Identity | None = None, wall: float = 0.0, **settings: Any
    ) -> None:
        self.cloud: Cloud = cloud
        self.identity, self.wall = identity, wall
        self.disk = Disk(trust=cloud.initial())
        fields = {
            "tenant": TENANT, "device": DEVICE, "hardware_class": "cpu-x86-64", "agent_version": "1",
            "good_answers": 3, "probation_s": 30.0, "window_s": 20.0,
        }  # fmt: skip
        self.settings = Settings(**(fields | settings))
        self.now = 1000.0
        self.traffic = True
        self.online = False
        self.disk_fails = ""
        self.power: int | None = None
        self.lose = 0
        self.upgraded = False
        self.https = True
        self.listens: set[str] = set()
        self.build_fails = ""
        self.utc_offset_s = 0.0
        self.boots = 0
        self.carried = 0
        self.log: list[cmd.Command] = []
        self._down = itertools.count(1)
        self._order = itertools.count()
        self._heap: list[tuple[float, int, int, ev.Event]] = []
        self.workers: dict[int, dict[str, Any]] = {}
        self.engines: dict[str, bytes] = {}
        self.builds: dict[str, cmd.Build] = {}
        self.boot()

    # --- life ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the daemon on what the disk holds; workers of before are gone."""
        self.boots += 1
        self.workers.clear()
        self.builds.clear()
        ids = (f"{self.boots}-{n}" for n in itertools.count())
        self.core = Core(
            self.settings,
            self.identity.signer() if self.identity else envelope.signer(KEY),
            boot_epoch=f"e{self.boots}",
            ids=lambda: next(ids),
            utc_offset_s=lambda _: self.utc_offset_s,
        )
        self.online = False
        self._heap.clear()
        slots = {
            model: {slot: hashlib.sha256(data).hexdigest() for slot, data in held.items()}
            for model, held in self.disk.slots.items()
        }
        self._handle(
            ev.Booted(
                wall=self.wall,
                trust=self.disk.trust,
                enrolled=self.cloud.initial(),
                device=self.disk.device,
                models=list(self.disk.models.values()),
                slots=slots,
                runtimes=[RuntimeInfo(name="litert"), RuntimeInfo(name="onnxruntime")],
                engines={} if self.upgraded else self.disk.engines,
                certificate=self.identity.certificate() if self.identity else Certificate(),
            )
        )

    def connect(self) -> None:
        if not self.online:
            self.online = True
            self._handle(ev.Connected())

    def disconnect(self) -> None:
        if self.online:
            self.online = False
            self._handle(ev.Disconnected())

    def fail_to_connect(self, reason: str, *, refused: bool) -> None:
        self._handle(ev.Disconnected(reason=reason, refused=refused))

    def push(self, kind: str, payload: bytes) -> None:
        """A message from the cloud."""
        self._handle(ev.Received(kind=kind, payload=payload))

    def run(self, seconds: float) -> None:
        """Let virtual time pass."""
        end = self.now + seconds
        for _ in range(20_000):
            deadline = self.core.deadline()
            at = self._heap[0][0] if self._heap else end + 1
            first = min(at, deadline if deadline is not None else end + 1)
            if first > end:
                self._pass_to(end)
                return
            self._pass_to(max(first, self.now))
            if self._heap and self._heap[0][0] <= self.now:
                _, _, boot, event = heapq.heappop(self._heap)
                if boot == self.boots:
                    self._handle(event)
            else:
                self._handle(ev.Tick())
        raise AssertionError(f"the core spins at {self.now}: {self.core.deadline()}")

    def survive(self, seconds: float) -> None:
        """Let virtual time pass; start again after a power cut."""
        end = self.now + seconds
        while self.now < end:
            try:
                self.run(end - self.now)
            except PowerCutError:
                self.power = None
                self.boot()
                self.connect()

    def _pass_to(self, now: float) -> None:
        self.cloud.now += now - self.now
        self.now = now

    def model(self, name: str = "digits") -> ModelRecord:
        return self.core.machines[name].record

    def answering(self, name: str = "digits") -> str:
        """The release that answers; empty for none."""
        found = self.core.machines[name].service.answering if name in self.core.machines else None
        return found.content.release if found else ""

    def crash(self, worker: int) -> None:
        """A worker's process dies."""
        if self.workers.pop(worker, None) is not None:
            self._handle(ev.WorkerExited(worker=worker, reason="signal 11"))

    # --- the shell -------------------------------------------------------------------------------

    def _post(self, event: ev.Event, after: float = 0.01) -> None:
        heapq.heappush(self._heap, (self.now + after, next(self._order), self.boots, event))

    def _handle(self, event: ev.Event) -> None:
        if isinstance(event, (ev.Built, ev.BuildFailed)):
            if event.model not in self.builds:
                return  # it was cancelled: nothing answers
            del self.builds[event.model]
        if isinstance(event, ev.Built):
            self.disk.engines[event.sha256] = event.engine
        commands = self.core.handle(event, self.now)
        for i, command in enumerate(commands):
            self.log.append(command)
            self.carried += 1
            if self.power is not None:
                self.power -= 1
                if self.power < 0:
                    raise PowerCutError
            if self.disk_fails and isinstance(command, cmd.PERSISTING):
                failed = ev.StoreFailed(
                    code=self.disk_fails, detail="virtual", dropped=commands[i:]
                )
                self._handle(failed)
                break
            getattr(self, f"_on_{type(command).__name__.lower()}")(command)
        self.check()

    def check(self) -> None:
        """What must hold after each step."""
        for record in self.disk.models.values():
            if record.active is not None:
                held = self.disk.slots.get(record.model, {}).get(record.active.slot, b"")
                assert hashlib.sha256(held).hexdigest() == record.active.sha256, record
        ended: dict[tuple[str, int], str] = {}
        for report in self.cloud.reports:
            key = (report.model, report.assignment_counter)
            if report.terminal:
                assert ended.setdefault(key, report.state) == report.state, report
                assert report.state in {state.value for state in TERMINAL}

    # --- what persists ---------------------------------------------------------------------------

    def _on_savemodel(self, c: cmd.SaveModel) -> None:
        self.disk.models[c.record.model] = c.record

    def _on_savetrust(self, c: cmd.SaveTrust) -> None:
        self.disk.trust = c.store

    def _on_savedevice(self, c: cmd.SaveDevice) -> None:
        self.disk.device = c.record

    def _on_writeblock(self, c: cmd.WriteBlock) -> None:
        self.disk.parts[c.sha256][c.offset : c.offset + len(c.data)] = c.data

    def _on_savebitmap(self, c: cmd.SaveBitmap) -> None:
        self.disk.bitmaps[c.sha256] = (c.block_list, c.bitmap)

    def _on_append(self, c: cmd.Append) -> None:
        self.disk.positions += 1
        self.disk.rows.append(
            ev.Row(
                position=self.disk.positions,
                boot_epoch=c.boot_epoch,
                seq=c.seq,
                kind=c.kind,
                payload=c.payload,
            )
        )

    def _on_forget(self, c: cmd.Forget) -> None:
        keys = set(c.keys)
        self.disk.rows = [r for r in self.disk.rows if (r.boot_epoch, r.seq) not in keys]

    def _on_loadrows(self, c: cmd.LoadRows) -> None:
        rows = [row for row in self.disk.rows if row.position > c.after][: c.limit]
        self._post(ev.RowsLoaded(after=c.after, rows=rows, waiting=len(self.disk.rows)))

    def _on_getblocks(self, c: cmd.GetBlocks) -> None:
        if not self.https:
            failed = ev.BlocksFailed(model=c.model, request=c.wanted.id, detail="no route")
            self._post(failed, 0.5)
            return
        blob = self.cloud.blobs[c.wanted.digest]
        for block in blocks_for(c.wanted, lambda start, length: blob[start : start + length]):
            self._post(ev.BlockGot(model=c.model, block=block))

    def _on_listen(self, c: cmd.Listen) -> None:
        self.listens = self.listens - {c.sha256} | ({c.sha256} if c.on else set())

    def _on_discard(self, c: cmd.Discard) -> None:
        for digest in set(self.disk.parts) - set(c.keep):
            self.disk.parts.pop(digest)
            self.disk.bitmaps.pop(digest, None)

    # --- the network -----------------------------------------------------------------------------

    def _on_publish(self, c: cmd.Publish) -> None:
        if not self.online:
            return
        for kind, payload in self.cloud.hear(c.kind, c.payload):
            if not self.lose or next(self._down) % self.lose:
                self._post(ev.Received(kind=kind, payload=payload), 0.05)

    # --- blobs -----------------------------------------------------------------------------------

    def _on_prepare(self, c: cmd.Prepare) -> None:
        part = self.disk.parts.setdefault(c.sha256, bytearray(c.length_bytes))
        kept = self.disk.bitmaps.get(c.sha256, (b"", b"")) if part else (b"", b"")
        self._post(ev.Prepared(model=c.model, sha256=c.sha256, block_list=kept[0], bitmap=kept[1]))

    def _on_stage(self, c: cmd.Stage) -> None:
        slots = self.disk.slots.setdefault(c.model, {})
        data = bytes(self.disk.parts.get(c.sha256, b"")) if c.fetched else slots.get(c.slot, b"")
        if hashlib.sha256(data).hexdigest() != c.sha256:
            self.disk.parts.pop(c.sha256, None)
            self.disk.bitmaps.pop(c.sha256, None)
            self._post(
                ev.StageFailed(model=c.model, sha256=c.sha256, code="ota.digest", detail="bytes")
            )
            return
        if "unattested" in c.attested_by:
            self._post(
                ev.StageFailed(
                    model=c.model,
                    sha256=c.sha256,
                    code="ota.unattested",
                    detail="nobody vouches for it",
                    refused=True,
                )
            )
            return
        if c.fetched:
            slots[c.slot] = data
            self.disk.parts.pop(c.sha256, None)
            self.disk.bitmaps.pop(c.sha256, None)
        self._post(
            ev.Staged(
                model=c.model,
                sha256=c.sha256,
                manifest_model=c.model,
                manifest_runtime="litert",
                builds=data.startswith(b"build"),
            )
        )

    # --- engines for twins -----------------------------------------------------------------------

    def _on_buildfortwins(self, c: cmd.BuildForTwins) -> None:
        data = self.disk.slots.get(c.model, {}).get(c.slot, b"")
        assert hashlib.sha256(data).hexdigest() == c.sha256
        engine = b"engine of " + data
        self.engines[hashlib.sha256(engine).hexdigest()] = engine
        self._post(
            ev.EngineReady(
                order=c.order,
                artifact=c.sha256,
                engine=hashlib.sha256(engine).hexdigest(),
                length_bytes=len(engine),
                environment={"tensorrt": "10.3"},
                host_code=False,
            ),
            30.0,
        )

    def _on_readengine(self, c: cmd.ReadEngine) -> None:
        for index in c.indices:
            data = self.engines[c.engine][index * c.block_size_bytes :][: c.block_size_bytes]
            self._post(ev.EngineRead(order=c.order, engine=c.engine, index=index, data=data))

    def _on_build(self, c: cmd.Build) -> None:
        data = self.disk.slots[c.model][c.slot]
        assert hashlib.sha256(data).hexdigest() == c.sha256
        assert not self.builds, "two builds at a time"
        assert self.disk.models[c.model].state.value == "building", "saved before its effect"
        behaviour = data.split(b" ", 1)[0].decode()
        self.builds[c.model] = c
        if behaviour == "build_never":
            return
        event = ev.BuildProgress(model=c.model, sha256=c.sha256, fraction=0.5, message="half")
        self._post(event, 10.0)
        failures = {"build_fails": ("build.failed", False), "build_hungry": ("build.memory", True)}
        code, retryable = failures.get(behaviour, (self.build_fails, False))
        if code:
            failed = ev.BuildFailed(
                model=c.model, sha256=c.sha256, code=code, detail=behaviour, retryable=retryable
            )
            self._post(failed, 20.0)
            return
        engine = hashlib.sha256(f"{c.sha256} {self.boots}".encode()).hexdigest()
        self._post(ev.Built(model=c.model, sha256=c.sha256, engine=engine, detail="by hand"), 20.0)

    def _on_cancelbuild(self, c: cmd.CancelBuild) -> None:
        self.builds.pop(c.model, None)

    # --- workers ---------------------------------------------------------------------------------

    def _on_startworker(self, c: cmd.StartWorker) -> None:
        data = self.disk.slots.get(c.model, {}).get(c.slot, b"")
        if hashlib.sha256(data).hexdigest() != c.sha256:
            self._post(
                ev.WorkerFailed(worker=c.worker, code="ota.verification", detail="other bytes")
            )
            return
        assert c.sha256 in self.cloud.blobs, "bytes that nobody signed were about to run"
        behaviour = data.split(b" ", 1)[0].decode()
        if behaviour.startswith("build") and self.disk.engines.get(c.sha256) != c.engine:
            self._post(ev.WorkerFailed(worker=c.worker, code="build.engine", detail="no engine"))
            return
        self.workers[c.worker] = {"behaviour": behaviour, "serving": False, "since": self.now}
        if behaviour == "broken":
            self._post(ev.WorkerFailed(worker=c.worker, code="runtime.load", detail="broken"), 1.0)
        elif behaviour != "stuck":
            self._post(ev.WorkerReady(worker=c.worker), 1.0)

    def _on_testworker(self, c: cmd.TestWorker) -> None:
        if c.worker not in self.workers:
            return
        passed = self.workers[c.worker]["behaviour"] != "wrong"
        result = SelfTest(
            passed=passed,
            cosine_min=1.0 if passed else 0.1,
            max_abs=0.0,
            latency_ms_p50=1.0,
            latency_ms_p95=1.5,
            peak_memory_mib=10.0,
        )
        self._post(ev.SelfTested(worker=c.worker, result=result), 0.5)

    def _on_promote(self, c: cmd.Promote) -> None:
        if c.worker in self.workers:
            self.workers[c.worker] |= {"serving": True, "since": self.now}
            self._post(ev.Promoted(worker=c.worker, url="http://127.0.0.1:1"))

    def _on_drain(self, c: cmd.Drain) -> None:
        if c.worker in self.workers:
            self.workers[c.worker]["serving"] = False

    def _on_takefigures(self, c: cmd.TakeFigures) -> None:
        worker = self.workers.get(c.worker)
        if worker is None:
            self._post(ev.WorkerExited(worker=c.worker, reason="it was gone already"))
            return
        asked = int(self.now - worker["since"]) if self.traffic else 0
        worker["since"] += asked
        if worker["behaviour"] == "silent":
            asked = 0
        if worker["behaviour"] == "crash" and asked:
            self.workers.pop(c.worker)
            self._post(ev.WorkerExited(worker=c.worker, reason="signal 11"))
            return
        faulty = worker["behaviour"] == "faulty"
        figures = Figures(
            inferences=0 if faulty else asked,
            errors=asked if faulty else 0,
            features={},
            latency_ms=histogram.empty(LATENCY_EDGES_MS),
            classes={},
        )
        self._post(ev.FiguresTaken(worker=c.worker, figures=figures))

    def _on_stopworker(self, c: cmd.StopWorker) -> None:
        self.workers.pop(c.worker, None)
        self._post(ev.WorkerExited(worker=c.worker, reason="exit 0"), 0.02)

    def _on_sense(self, _: cmd.Sense) -> None:
        self._post(ev.Sensed(figures={"temperature_c": 40.0}))

    # --- the certificate -------------------------------------------------------------------------

    def _on_takecertificate(self, c: cmd.TakeCertificate) -> None:
        assert self.identity is not None
        try:
            unsaved = self.identity.take(
                certificate_pem=c.certificate_pem,
                authorities_pem=c.authorities_pem,
                issued=c.issued,
            )
        except OutriderError as error:
            self._post(ev.RenewalFailed(code=error.code, detail=str(error)))
            return
        taken = ev.CertificateTaken(certificate=self.identity.certificate(), unsaved=unsaved)
        self._post(taken)
        if self.online:
            self._post(ev.Disconnected(), 0.02)
            self._post(ev.Connected(), 0.03)

    def _on_askforcertificate(self, c: cmd.AskForCertificate) -> None:
        for event in self.cloud.renew(self, c.sealed):  # type: ignore[attr-defined]  # a cloud that has certificates
            self._post(event)

    def _on_log(self, _: cmd.Log) -> None:
        pass
