"""A device in virtual time: the real core, store and buffer, pumped by the heap instead of a loop.

Rules:
- The core is the product's own, unchanged. What its shell does to the world is done here, in order, and
  power may go away between any two commands.
- What survives a power cut is what lies in the folder; everything else begins anew at the next boot.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from agent.adapters import rebuilding
from agent.adapters.identity import Enrolment
from agent.adapters.store import Kept
from agent.buffer.store import Buffer
from agent.core import commands as cmd
from agent.core import events as ev
from agent.core.context import Settings
from agent.core.core import Core
from agent.runtimes import tensorrt
from fleet.errors import OutriderError
from fleet.telemetry.window import Window
from fleet.wire import codec, envelope
from fleet.wire.messages import RuntimeInfo
from ota.errors import UnattestedError
from simulator.errors import ViolationError
from simulator.virtual.builder import Builder
from simulator.virtual.crew import Crew, Trouble
from simulator.virtual.disk import CuttableStore
from simulator.virtual.network import Network
from simulator.virtual.schedule import Schedule

RUNTIMES = ("onnxruntime", "tensorrt")
MIN_TICK_S = 0.001
MAX_TICKS_A_SECOND = 200
BOOT_S = (1.0, 20.0)
DISK_S = (0.001, 0.05)
HASH_S = (0.05, 1.0)


@dataclass(frozen=True)
class Birthright:
    """What a device is given at its making.

    Attributes:
        clock_error_s: how wrong its wall clock is.
        buffer_bytes: bound of its buffer; a small one merges windows while the device is cut off.
        rate: requests per second that applications send to each model.
        trouble: what is wrong with an artifact on this device, by sha256; shared with the scenario.
    """

    settings: Settings
    key: ec.EllipticCurvePrivateKey
    enrolment: Enrolment
    folder: Path
    clock_error_s: float
    buffer_bytes: int
    rate: float
    trouble: dict[str, Trouble]


@dataclass
class World:
    """What a device touches besides itself.

    Attributes:
        watch: called with the device and each command before it is carried out.
        settled: called after each event that a device has handled.
    """

    schedule: Schedule
    network: Network
    epoch: float
    watch: Callable[[Device, cmd.Command], None]
    settled: Callable[[Device], None]
    log: Callable[[str, str, str], None]


@dataclass
class Device:
    """One device.

    Attributes:
        core: None while there is no power.
        boots: how often it has started.
        cut_in: carry out so many more commands, then lose power; None: no cut is due.
        hurt_blocks: fetched blocks that a power cut has lost or torn.
        merged, evicted: windows and rows that the buffer has merged or given up.
    """

    born: Birthright
    world: World
    rng: random.Random
    core: Core | None = None
    crew: Crew | None = None
    builder: Builder | None = None
    boots: int = 0
    cut_in: int | None = None
    hurt_blocks: int = 0
    merged: int = 0
    evicted: int = 0
    _booted_at: float = 0.0
    _tick_due: float | None = None
    _ticks: tuple[int, int] = (0, 0)
    _buffer: Buffer | None = None
    _store: CuttableStore | None = None
    _appended: dict[tuple[str, int], float] = field(default_factory=dict)
    _table: dict[type[cmd.Command], Callable[[Any], None]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its id."""
        return self.born.settings.device

    @property
    def powered(self) -> bool:
        """Whether it runs."""
        return self.core is not None

    @property
    def store(self) -> CuttableStore:
        """Its disk; only while it is powered."""
        if self._store is None:
            raise RuntimeError(f"{self.name} has no power")
        return self._store

    @property
    def buffer(self) -> Buffer:
        """Its buffer; only while it is powered."""
        if self._buffer is None:
            raise RuntimeError(f"{self.name} has no power")
        return self._buffer

    def waiting_windows(self) -> list[Window]:
        """The windows in its buffer, powered or not; reading them changes nothing."""
        rows = self._query("SELECT payload FROM rows WHERE kind = 'telemetry'")
        return [codec.from_msgpack(Window, payload) for (payload,) in rows]

    def oldest_waiting_s(self) -> float:
        """For how long its oldest row has waited for the cloud, virtual seconds."""
        now = self.world.schedule.now
        there = self._query("SELECT epoch, seq FROM rows")
        return now - min((self._appended[key] for key in there), default=now)

    def _query(self, query: str) -> list[Any]:
        path = self.born.folder / "buffer.sqlite"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()

    # --- power ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power is there: start from what the disk holds."""
        if self.core is not None:
            return
        self.boots += 1
        self.cut_in = None
        self._booted_at = self.world.schedule.now
        self._tick_due = None
        self._store = CuttableStore(self.born.folder)
        self._buffer = Buffer(self.born.folder / "buffer.sqlite", max_bytes=self.born.buffer_bytes)
        self.core = Core(
            self.born.settings,
            envelope.signer(self.born.key),
            boot_epoch=self.rng.randbytes(8).hex(),
            ids=lambda: self.rng.randbytes(8).hex(),
        )
        self.builder = Builder(
            self.world.schedule, self.rng, self._poster(), self.born.folder / "engines.json"
        )
        self.crew = Crew(
            self.world.schedule,
            self.rng,
            self._poster(),
            self._store.slot_path,
            self.builder.engines,
            self.born.trouble,
            self.born.rate,
        )
        self._table = self._effects()
        self.world.log(self.name, "power.on", f"boot {self.boots}")
        self._handle(self._booted())
        if self.powered:
            self.world.network.powered_on(self.name)

    def cut_power(self) -> None:
        """Power goes away: nothing but the disk is left."""
        if self.core is None:
            return
        self.hurt_blocks += self.store.cut_power(self.rng)
        self.buffer.close()
        self.core = self.crew = self.builder = self._store = self._buffer = None
        self._table = {}
        self.world.log(self.name, "power.off", "")
        self.world.network.powered_off(self.name)

    def _booted(self) -> ev.Booted:
        trust, enrolled = self.store.load_trust(self.born.enrolment)
        device, models = self.store.load_device(), self.store.load_models()
        slots = self.store.hash_slots()
        return ev.Booted(
            wall=self.world.epoch + self.world.schedule.now + self.born.clock_error_s,
            trust=trust,
            enrolled=enrolled,
            device=device,
            models=models,
            slots=slots,
            runtimes=[RuntimeInfo(name=name, version="1") for name in RUNTIMES],
            engines=self.builder.engines() if self.builder is not None else {},
            notes=list(self.store.notes),
        )

    # --- the network's side -----------------------------------------------------------------------

    def on_connected(self) -> None:
        """The link stands."""
        self._handle(ev.Connected())

    def on_disconnected(self) -> None:
        """The link is gone."""
        self._handle(ev.Disconnected(reason="keep-alive"))

    def on_message(self, kind: str, payload: bytes) -> None:
        """A message arrived."""
        self._handle(ev.Received(kind=kind, payload=payload))

    # --- the pump ---------------------------------------------------------------------------------

    def _poster(self) -> Callable[[ev.Event], None]:
        """Hands events to this boot's core, in their turn; later boots never see them."""
        boot = self.boots

        def post(event: ev.Event) -> None:
            self.world.schedule.after(0.0, lambda: self._handle(event, boot))

        return post

    def _later(self, delays_s: tuple[float, float], act: Callable[[], None]) -> None:
        boot = self.boots

        def when() -> None:
            if self.powered and self.boots == boot:
                act()

        self.world.schedule.after(self.rng.uniform(*delays_s), when)

    def _handle(self, event: ev.Event, boot: int | None = None) -> None:
        if self.core is None or (boot is not None and boot != self.boots):
            return
        now = self.world.schedule.now - self._booted_at
        for command in self.core.handle(event, now):
            if self.cut_in is not None:
                self.cut_in -= 1
                if self.cut_in < 0:
                    self.cut_power()
                    return
            self.world.watch(self, command)
            self._do(command)
        self._plan_tick(now)
        self.world.settled(self)

    def _plan_tick(self, now: float) -> None:
        deadline = self.core.deadline() if self.core is not None else None
        if deadline is None:
            self._tick_due = None
            return
        if self._tick_due is not None and self._tick_due == deadline:
            return
        self._tick_due = due = deadline
        boot = self.boots

        def tick() -> None:
            if self.boots == boot and self._tick_due == due:
                self._tick_due = None
                self._count_tick()
                self._handle(ev.Tick())

        self.world.schedule.after(max(MIN_TICK_S, due - now), tick)

    def _count_tick(self) -> None:
        second = int(self.world.schedule.now)
        before, ticks = self._ticks
        self._ticks = (second, ticks + 1 if second == before else 1)
        if self._ticks[1] > MAX_TICKS_A_SECOND:
            raise ViolationError(
                f"{self.name} spins: {self._ticks[1]} deadlines within second {second}"
            )

    # --- what commands do -------------------------------------------------------------------------

    def _do(self, command: cmd.Command) -> None:
        if self.crew is None or self.builder is None:
            return
        if not self.crew.take(command) and not self.builder.take(command):
            self._table[type(command)](command)

    def _effects(self) -> dict[type[cmd.Command], Callable[[Any], None]]:
        store = self.store
        return {
            cmd.SaveModel: lambda c: store.save_model(c.record),
            cmd.SaveTrust: lambda c: store.save_trust(c.store),
            cmd.SaveDevice: lambda c: store.save_device(c.record),
            cmd.WriteBlock: lambda c: store.write_block(c.sha256, c.offset, c.data),
            cmd.SaveBitmap: lambda c: store.save_bitmap(c.sha256, Kept(c.block_list, c.bitmap)),
            cmd.GetBlocks: lambda _: None,  # devices here have no HTTPS
            cmd.Listen: lambda _: None,  # and hear no broadcasts
            cmd.Discard: lambda c: store.discard(c.keep),
            cmd.Append: self._append,
            cmd.Forget: self._forget,
            cmd.LoadRows: self._load_rows,
            cmd.Publish: lambda c: self.world.network.up(self.name, c.kind, c.payload),
            cmd.Prepare: lambda c: self._later(DISK_S, lambda: self._prepare(c)),
            cmd.Rebuild: lambda c: self._later(HASH_S, lambda: self._rebuild(c)),
            cmd.Stage: lambda c: self._later(HASH_S, lambda: self._stage(c)),
            cmd.Sense: lambda _: self._later(DISK_S, lambda: self._handle(ev.Sensed(figures={}))),
            cmd.Log: lambda c: self.world.log(self.name, c.code, c.text),
        }

    def _forget(self, command: cmd.Forget) -> None:
        self.buffer.forget(command.keys)
        for key in command.keys:
            self._appended.pop(key, None)

    def _append(self, command: cmd.Append) -> None:
        self.buffer.append(command)
        self._appended[command.boot_epoch, command.seq] = self.world.schedule.now
        trimmed = self.buffer.take_trimmed()
        if trimmed is not None:
            self.evicted += trimmed.evicted
            self.merged += trimmed.merged
            self._later((0.0, 0.0), lambda: self._handle(trimmed))

    def _load_rows(self, command: cmd.LoadRows) -> None:
        rows = self.buffer.load(command.after, command.limit)
        event = ev.RowsLoaded(after=command.after, rows=rows, waiting=len(self.buffer))
        self._later(DISK_S, lambda: self._handle(event))

    def _prepare(self, command: cmd.Prepare) -> None:
        model, sha256 = command.model, command.sha256
        try:
            kept = self.store.prepare(sha256, command.length_bytes)
        except OutriderError as error:
            self._handle(
                ev.PrepareFailed(model=model, sha256=sha256, code=error.code, detail=str(error))
            )
            return
        self._handle(
            ev.Prepared(model=model, sha256=sha256, block_list=kept.block_list, bitmap=kept.bitmap)
        )

    def _rebuild(self, command: cmd.Rebuild) -> None:
        try:
            self._handle(rebuilding.rebuild(self.store, command))
        except OutriderError as error:
            model, sha256 = command.model, command.sha256
            self._handle(
                ev.RebuildFailed(model=model, sha256=sha256, code=error.code, detail=str(error))
            )

    def _stage(self, command: cmd.Stage) -> None:
        model, sha256 = command.model, command.sha256
        try:
            manifest = self.store.stage(command)
        except OutriderError as error:
            self._handle(
                ev.StageFailed(
                    model=model,
                    sha256=sha256,
                    code=error.code,
                    detail=str(error),
                    refused=isinstance(error, UnattestedError),
                )
            )
            return
        if self.rng.random() < 0.02 and self.cut_in is not None:
            self.cut_power()  # the bytes are in their slot, and nobody knows yet
            return
        self._handle(
            ev.Staged(
                model=model,
                sha256=sha256,
                manifest_model=manifest.model,
                manifest_runtime=manifest.runtime,
                builds=tensorrt.builds(manifest),
            )
        )
