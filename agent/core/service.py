"""The workers of one model: what answers now, and the candidate beside it.

Rules:
- The incumbent is what is committed. It is started at boot, restarted with growing pauses when it dies,
  and never waits for the network.
- While a candidate is on probation the incumbent stays loaded but does not accept (standby), so that a
  rollback is one promotion away.
- A worker that is told to end hands over its last figures first; no count is lost on purpose.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from agent.core.backoff import Backoff
from agent.core.commands import Drain, Promote, StartWorker, StopWorker, TakeFigures
from agent.core.context import Context
from agent.core.records import SlotContent
from agent.core.telemetry import DriftWatch, OpenWindow
from agent.serving.port import Figures
from fleet.artifact.manifest import Feature
from fleet.wire import codec
from fleet.wire.messages import EventLevel

CALL_TIMEOUT_S = 180.0
"""The shell bounds each call more tightly; this is for an answer that never comes."""


class Phase(str, Enum):
    """Where a worker stands."""

    STARTING = "starting"
    LOADED = "loaded"
    PROMOTING = "promoting"
    SERVING = "serving"
    STANDBY = "standby"
    ENDING = "ending"


class Running(msgspec.Struct, kw_only=True):
    """A worker process, as the core sees it."""

    worker: int
    content: SlotContent
    phase: Phase
    since: float
    url: str = ""
    features: list[Feature] = []
    window: OpenWindow | None = None
    closing: bool = False
    asked: int = 0
    asked_at: float = 0.0


class Service:
    """Args: ctx: the core's surroundings; model: its name; drift: sees each closed window."""

    def __init__(self, ctx: Context, model: str, drift: DriftWatch) -> None:
        self._ctx, self._model, self._drift = ctx, model, drift
        self._backoff = Backoff(1.0, 60.0)
        self._ending: dict[int, Running] = {}
        self.incumbent: Running | None = None
        self.candidate: Running | None = None
        self.restart_at = 0.0
        self.start_failed = False

    # --- finding ---------------------------------------------------------------------------------

    def find(self, worker: int) -> Running | None:
        """The worker of that number, when it is of this model."""
        for running in (self.incumbent, self.candidate, self._ending.get(worker)):
            if running is not None and running.worker == worker:
                return running
        return None

    @property
    def answering(self) -> Running | None:
        """The worker that answers on the model's socket."""
        for running in (self.candidate, self.incumbent):
            if running is not None and running.phase is Phase.SERVING:
                return running
        return None

    @property
    def quiet(self) -> bool:
        """Whether no worker of this model is left."""
        return self.incumbent is None and self.candidate is None and not self._ending

    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = [self.restart_at] if self.restart_at > self._ctx.now else []
        for running in (self.incumbent, self.candidate, *self._ending.values()):
            if running is None:
                continue
            if running.phase in {Phase.STARTING, Phase.PROMOTING, Phase.ENDING}:
                times.append(running.since + CALL_TIMEOUT_S)
            if running.asked:
                times.append(running.asked_at + CALL_TIMEOUT_S)
            elif running.phase is Phase.SERVING and running.window is not None:
                times.append(running.window.opened + self._ctx.settings.window_s)
        return min(times) if times else None

    # --- starting and ending ---------------------------------------------------------------------

    def keep(self, active: SlotContent | None, *, start: bool) -> None:
        """Make the incumbent be `active`; where none runs, start one only if `start`."""
        if self.incumbent is not None and (
            active is None or self.incumbent.content.sha256 != active.sha256
        ):
            self.end(self.incumbent)
        if active is None:
            self.restart_at = 0.0
            return
        if self.incumbent is None and start and self._ctx.now >= self.restart_at:
            self.restart_at = 0.0
            self.incumbent = self._start(active)

    def try_out(self, content: SlotContent) -> None:
        """Start a candidate beside the incumbent."""
        if self.candidate is not None:
            self.end(self.candidate)
        self.candidate = self._start(content)

    def take_over(self) -> None:
        """The candidate is the incumbent from now on; the old one ends."""
        old, self.incumbent, self.candidate = self.incumbent, self.candidate, None
        self._backoff.reset()
        if old is not None:
            self.end(old)

    def promote(self, running: Running) -> None:
        """Let a loaded or waiting worker answer."""
        running.phase, running.since = Phase.PROMOTING, self._ctx.now
        self._ctx.do(Promote(worker=running.worker, model=self._model))

    def rest(self, running: Running) -> None:
        """Let a worker finish what it has and stay loaded."""
        self._ctx.do(Drain(worker=running.worker))
        self.ask(running, close=True)
        running.phase, running.since = Phase.STANDBY, self._ctx.now

    def end(self, running: Running) -> None:
        """End a worker; its last window closes when its figures have come, or when it is gone."""
        if running is self.incumbent:
            self.incumbent = None
        if running is self.candidate:
            self.candidate = None
        if running.phase is Phase.SERVING:
            self._ctx.do(Drain(worker=running.worker))
            self.ask(running, close=True)
        running.phase, running.since = Phase.ENDING, self._ctx.now
        self._ending[running.worker] = running
        self._ctx.do(StopWorker(worker=running.worker))

    def end_all(self) -> None:
        """The daemon ends."""
        for running in (self.incumbent, self.candidate):
            if running is not None:
                self.end(running)
        self.restart_at = 0.0

    def _start(self, content: SlotContent) -> Running:
        running = Running(
            worker=self._ctx.next_worker(),
            content=content,
            phase=Phase.STARTING,
            since=self._ctx.now,
        )
        self._ctx.do(
            StartWorker(
                worker=running.worker,
                model=self._model,
                release=content.release,
                sha256=content.sha256,
                length_bytes=content.length_bytes,
                slot=content.slot,
                engine=content.engine,
            )
        )
        return running

    # --- what workers answer ---------------------------------------------------------------------

    def loaded(self, running: Running, features: list[Feature]) -> None:
        """A worker has its artifact in memory; an incumbent answers, unless a candidate does already."""
        running.features, running.phase = features, Phase.LOADED
        if running is not self.incumbent:
            return
        candidate = self.candidate
        if candidate is not None and candidate.phase in {Phase.PROMOTING, Phase.SERVING}:
            running.phase, running.since = Phase.STANDBY, self._ctx.now
        else:
            self.promote(running)

    def promoted(self, running: Running, url: str) -> None:
        """A worker answers now."""
        running.phase, running.since, running.url = Phase.SERVING, self._ctx.now, url
        self._open(running)
        if running is self.incumbent:
            self.start_failed = False

    def lost(self, running: Running, code: str, detail: str) -> None:
        """A worker is of no use any more, dead or not."""
        self._close(running)
        self._ending.pop(running.worker, None)
        if running.phase is Phase.ENDING:
            return
        was_incumbent = running is self.incumbent
        self.end(running)
        if not was_incumbent:
            return
        self.start_failed = True
        pause_s = self._backoff.next_s()
        self.restart_at = self._ctx.now + pause_s
        self._ctx.event(
            "serving.worker_lost",
            f"{code}: {detail}; started again in {pause_s:.0f} s",
            level=EventLevel.ERROR,
            model=self._model,
            release=running.content.release,
        )

    def exited(self, running: Running) -> None:
        """The process is gone for good."""
        self._close(running)
        self._ending.pop(running.worker, None)

    # --- figures ---------------------------------------------------------------------------------

    def ask(self, running: Running, *, close: bool) -> None:
        """Ask for figures; with `close` the window ends when they have come."""
        running.closing = running.closing or close
        if running.asked and not close:
            return
        running.asked += 1
        running.asked_at = self._ctx.now
        self._ctx.do(TakeFigures(worker=running.worker))

    def took(self, running: Running, figures: Figures) -> None:
        """Figures have come."""
        running.asked = max(0, running.asked - 1)
        if running.window is None:
            return
        running.window.add(figures, at=self._ctx.device_time())
        if figures.inferences:
            self._backoff.reset()
        if running.closing and not running.asked:
            self._close(running)
            if running.phase is Phase.SERVING:
                self._open(running)

    def tick(self) -> None:
        """Close windows on time; give up on workers that never answered."""
        now = self._ctx.now
        for running in (self.incumbent, self.candidate, *list(self._ending.values())):
            if running is None:
                continue
            slow = running.phase in {Phase.STARTING, Phase.PROMOTING, Phase.ENDING}
            if slow and now >= running.since + CALL_TIMEOUT_S:
                self.lost(running, "serving.worker_lost", f"no answer while {running.phase.value}")
            elif running.asked and now >= running.asked_at + CALL_TIMEOUT_S:
                running.asked = 0
            elif not running.asked and self._is_full(running):
                self.ask(running, close=True)

    def _is_full(self, running: Running) -> bool:
        window = running.window
        return (
            running.phase is Phase.SERVING
            and window is not None
            and self._ctx.now >= window.opened + self._ctx.settings.window_s
        )

    def _open(self, running: Running) -> None:
        running.window = OpenWindow(
            self._model,
            running.content,
            running.features,
            opened=self._ctx.now,
            started=self._ctx.device_time(),
        )

    def _close(self, running: Running) -> None:
        running.closing = False
        opened, running.window = running.window, None
        if opened is None or opened.empty:
            return
        window = opened.close(boot_epoch=self._ctx.boot_epoch, seq=self._ctx.next_seq())
        self._ctx.append("telemetry", window.seq, codec.to_msgpack(window))
        self._drift.see(self._ctx, window)
